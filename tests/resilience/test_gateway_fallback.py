"""The gateway: another model answers while the large one is down, and its gate is a pressure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from cascade.models.base import guard
from cascade.service.building import build_service, to_shedding
from cascade.service.config import ServiceConfig
from cascade.service.faults import ServiceError
from cascade.service.sections import SheddingConfig
from cascade.service.serving import Gate
from tests.servers.fake import FakeServer
from tests.service.gateway import configured, gateway

NOBODY = "http://127.0.0.1:1/v1"


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setattr(guard, "forbidden", False)
    monkeypatch.setenv("UPSTREAM_KEY", "sk-upstream-secret")
    with FakeServer() as server:
        yield server


def world(upstream: FakeServer, tmp_path: Path, **cascade: Any) -> dict[str, Any]:
    """A gateway whose large model nobody serves, and whose drafts are never good enough."""
    price = {"input": 0, "output": 1000}
    there = {"base_url": upstream.openai_url, "api_key_env": "UPSTREAM_KEY", "price": price}
    tiers = [
        {"model": "openai:small", **there},
        {"model": "openai:large", **there, "base_url": NOBODY},
    ]
    given = {"tiers": tiers, "threshold": 1.0, "resilience": {"retries": False}, **cascade}
    return configured(upstream, tmp_path, cascade=given)


async def test_another_model_answers_over_http_while_the_large_one_is_down(
    upstream: FakeServer, tmp_path: Path
) -> None:
    stand_in = {
        "model": "openai:other",
        "name": "other",
        "base_url": upstream.openai_url,
        "api_key_env": "UPSTREAM_KEY",
        "price": {"input": 0, "output": 1000},
    }
    config = world(upstream, tmp_path, fallback=[stand_in, "draft"])
    async with gateway(config) as running:
        secret = await running.key()
        answer = await running.client.post(
            "/v1/chat/completions",
            json={"model": "support", "messages": [{"role": "user", "content": "hello"}]},
            headers={"Authorization": f"Bearer {secret}"},
        )
        assert running.service.store is not None
        stored = [item.entry async for item in running.service.store.stored()]
    assert answer.status_code == 200, answer.text
    told = answer.json()["cascade"]
    assert (told["tier"], told["degraded"]) == ("other", True)
    assert ("expert", "other", "ok") in [(e.node, e.tier, e.outcome) for e in stored]
    assert [e.tier for e in stored if e.node == "fallback"] == ["other"]


async def test_an_order_that_ends_in_the_error_is_a_503_though_there_is_a_draft(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with gateway(world(upstream, tmp_path, fallback=["fail"])) as running:
        answer = await running.ask(await running.key())
    assert answer.status_code in (502, 503), answer.text
    assert "openai:large" in answer.text
    assert len(upstream.received) == 1  # the draft


async def test_the_gate_is_a_pressure_before_it_refuses() -> None:
    gate = Gate("support", 2, 2, 30.0)
    seen, waiting = [gate.pressure()], []
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(gate.through())
            seen.append(gate.pressure())
        for _ in range(2):
            waiting.append(asyncio.ensure_future(_through(gate)))
            await asyncio.sleep(0)
            seen.append(gate.pressure())
        with pytest.raises(ServiceError, match="2 wait already"):
            async with gate.through():
                pass
    await asyncio.gather(*waiting)
    assert seen == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert gate.pressure() == 0.0


async def _through(gate: Gate) -> None:
    async with gate.through():
        pass


@pytest.mark.parametrize(("running", "sheds"), [(0, False), (4, True)])
def test_a_cascade_is_under_the_pressure_of_its_gate(
    upstream: FakeServer, tmp_path: Path, running: int, sheds: bool
) -> None:
    config = configured(
        upstream, tmp_path, auth=False, cascade={"shedding": True, "concurrency": 4}
    )
    service = build_service(ServiceConfig.model_validate({**config, "ledger": "memory://"}))
    served = service.served["support"]
    served.gate.running = running
    assert served.cascade._pressure is not None
    assert (served.cascade._pressure.sheds("audit") is not None) is sheds
    text = service.metrics.text().decode()
    assert f'cascade_gate_pressure{{model="support"}} {running / 4}' in text


def test_a_gate_may_be_left_out_of_the_pressure() -> None:
    made = to_shedding(SheddingConfig(gate=False, in_flight=3), lambda: 9.0)
    assert made is not None
    assert (made.load, made.in_flight) == (None, 3)
    assert to_shedding(False, lambda: 9.0) is None
