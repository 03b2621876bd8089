"""A gateway whose upstream fails or hangs: its settings, what it shows, and how long it waits."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.requests import Request

from cascade.errors import ConfigurationError
from cascade.resilience import Breaker, Bulkhead, Resilience, Retries
from cascade.service.building import build_service
from cascade.service.config import ResilienceConfig, ServiceConfig
from cascade.service.enduring import to_doors
from cascade.service.protocols.asking import patience_of
from tests.servers import replies
from tests.servers.fake import FakeServer
from tests.service.gateway import Gateway, configured, gateway

DOWN = replies.error(500, "down")
OPENS = {"retries": False, "breaker": {"in_a_row": 2, "open_s": 60, "most_open_s": 60}}


def read(given: dict[str, Any]) -> Resilience:
    return to_doors(ResilienceConfig.model_validate(given), {}).settings


def test_without_a_word_the_settings_are_those_of_the_library() -> None:
    assert read({}) == Resilience()


def test_each_part_can_be_set_and_switched_off_also_for_one_tier() -> None:
    given = {
        "retries": {"attempts": 5, "base_s": 1, "cap_s": 9, "share": 0.1, "reserve": 3},
        "breaker": {"in_a_row": False, "rate": 0.25},
        "bulkhead": False,
        "tiers": {"small": {"retries": False, "breaker": False, "bulkhead": {"most": 2}}},
    }
    assert read(given) == Resilience(
        Retries(attempts=5, base_s=1, cap_s=9, share=0.1, reserve=3),
        Breaker(in_a_row=None, rate=0.25),
        None,
        {"small": Resilience(None, None, Bulkhead(most=2))},
    )


@pytest.mark.parametrize(
    "given",
    [
        {"retries": True},
        {"retries": {"attempts": 0}},
        {"breaker": {"rate": 2}},
        {"bulkhead": {"most": 0}},
        {"breakers": {}},
        {"tiers": {"small": {"tiers": {}}}},
    ],
)
def test_what_has_no_meaning_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ResilienceConfig.model_validate(given)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"breaker": {"open_s": 99}}, "most_open_s"),
        ({"breaker": {"in_a_row": False, "rate": False}}, "would never open"),
        ({"tiers": {"lage": {}}}, "'lage'"),
    ],
)
def test_what_cannot_go_together_is_refused_with_the_name_of_its_cascade(
    upstream: FakeServer, tmp_path: Path, given: dict[str, Any], named: str
) -> None:
    config = configured(upstream, tmp_path, cascade={"resilience": given})
    with pytest.raises(ConfigurationError, match=rf"(?s)cascades\.support: .*{named}"):
        build_service(ServiceConfig.model_validate(config))


async def test_readiness_tells_which_tiers_are_left_alone(
    upstream: FakeServer, tmp_path: Path
) -> None:
    config = configured(upstream, tmp_path, auth=False, cascade={"resilience": OPENS})
    async with gateway(config) as running:
        upstream.will(*[DOWN] * 4)
        failed = [await running.ask() for _ in range(2)]
        refused = await running.ask()
        ready = await running.get("/readyz")
        shown = (await running.get("/metrics")).text.splitlines()
    assert [answer.status_code for answer in failed] == [502, 502]
    assert len(upstream.received) == 4
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "tier_unavailable"
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    tiers = ready.json()["tiers"]["support"]
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    assert {tier["breaker"] for tier in tiers.values()} == {"open"}
    assert 0 < tiers["large"]["ready_in_s"] <= 60
    assert 'cascade_breaker_state{cascade="support",tier="large"} 2.0' in shown
    assert 'cascade_not_sent_total{cascade="support",reason="breaker",tier="small"} 1.0' in shown
    assert 'cascade_tier_running{model="support",tier="large"} 0.0' in shown


async def test_retries_left_are_shown(upstream: FakeServer, tmp_path: Path) -> None:
    given = {"retries": {"reserve": 7}, "bulkhead": False, "breaker": False}
    config = configured(upstream, tmp_path, auth=False, cascade={"resilience": given})
    async with gateway(config) as running:
        shown = (await running.get("/metrics")).text.splitlines()
        ready = await running.get("/readyz")
    assert 'cascade_retry_budget{model="support",tier="small"} 7.0' in shown
    assert not any(line.startswith("cascade_tier_running{") for line in shown)
    assert ready.json()["tiers"]["support"]["small"]["breaker"] is None


def test_cascades_of_one_gateway_share_what_they_know_of_a_server(
    upstream: FakeServer, tmp_path: Path
) -> None:
    config = configured(upstream, tmp_path, allow_tiers=True)
    config["cascades"]["other"] = config["cascades"]["support"]
    service = build_service(ServiceConfig.model_validate(config))
    for _ in range(5):
        service.cascades["support"].tier_states()
        cascade = service.cascades["support"]
        door = cascade.doors.of("large", cascade.tiers[1].model, cascade.tiers[1].settings.api_key)
        door._core.breaker.leave(0, failed=True)  # type: ignore[union-attr]
    names = ("support", "other", "support/large", "other/large")
    states = {name: service.cascades[name].tier_states()["large"].breaker for name in names}
    assert states == dict.fromkeys(names, "open")
    assert service.cascades["other"].tier_states()["small"].breaker == "closed"


async def post(running: Gateway, headers: dict[str, str], **body: Any) -> Any:
    asked = {"model": "support", "messages": [{"role": "user", "content": "hi"}], **body}
    return await running.client.post("/v1/chat/completions", json=asked, headers=headers)


@pytest.mark.parametrize("header", ["X-Stainless-Read-Timeout", "X-Stainless-Timeout"])
async def test_nothing_is_done_for_a_client_that_waits_no_longer(
    upstream: FakeServer, tmp_path: Path, header: str
) -> None:
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        upstream.will(*[replies.HANG] * 6)
        answer = await post(running, {header: "0.5"})
        assert answer.status_code == 504
        for received in upstream.received:
            assert await asyncio.to_thread(received.left.wait, 30), "the upstream is let go"


async def test_the_official_client_says_how_long_it_waits(upstream: FakeServer) -> None:
    import openai  # noqa: PLC0415 - of this test alone

    async with openai.AsyncOpenAI(
        base_url=upstream.openai_url, api_key="none", timeout=77
    ) as client:
        await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}]
        )
    headers = [(k.encode(), v.encode()) for k, v in upstream.last.headers.items()]
    assert patience_of(Request({"type": "http", "headers": headers})) == 77


@pytest.mark.parametrize("given", ["", "soon", "-1", "0", "nan", "1e99", "NOT_GIVEN"])
async def test_a_time_that_is_none_bounds_nothing(
    upstream: FakeServer, tmp_path: Path, given: str
) -> None:
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        answer = await post(running, {"X-Stainless-Read-Timeout": given})
    assert answer.status_code == 200


async def test_the_time_between_words_does_not_bound_a_stream(
    upstream: FakeServer, tmp_path: Path
) -> None:
    words = replies.sse([replies.openai_delta(content="hi"), replies.openai_delta("stop")])
    late = replace(words, delay_s=0.6)
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        upstream.will(DOWN, DOWN, DOWN, late)
        answer = await post(running, {"X-Stainless-Read-Timeout": "0.3"}, stream=True)
    assert answer.status_code == 200
    assert "hi" in answer.text
