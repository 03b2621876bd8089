"""Who comes in: keys, rates, models, places."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.servers import replies
from tests.servers.fake import FakeServer
from tests.service.gateway import configured, gateway, until


async def test_a_request_without_a_key_is_refused_with_the_way_to_one(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with gateway(configured(upstream, tmp_path)) as running:
        answer = await running.ask()
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    error = answer.json()["error"]
    assert error["code"] == "invalid_api_key"
    assert "cascade keys create" in error["message"]
    assert not upstream.received


async def test_a_key_lets_a_request_in_and_names_it_in_the_ledger(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with gateway(configured(upstream, tmp_path)) as running:
        secret = await running.key(tags={"team": "search"})
        answer = await running.ask(secret)
        assert answer.status_code == 200, answer.text
        assert running.service.store is not None
        stored = [item async for item in running.service.store.stored()]
        keys = await running.in_loop(running.service.keys.list())
    assert {item.tags["team"] for item in stored} == {"search"}
    assert {item.tags["key"] for item in stored} == {keys[0].id}


async def test_x_api_key_is_as_good_as_a_bearer(upstream: FakeServer, tmp_path: Path) -> None:
    async with gateway(configured(upstream, tmp_path)) as running:
        secret = await running.key()
        answer = await running.client.post(
            "/test/ask", json={"text": "hello"}, headers={"X-API-Key": secret}
        )
    assert answer.status_code == 200


async def test_a_revoked_key_is_refused_at_once_in_the_process_that_revoked_it(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with gateway(configured(upstream, tmp_path)) as running:
        secret = await running.key("team")
        assert (await running.ask(secret)).status_code == 200
        await running.in_loop(running.service.keys.revoke("team"))
        assert (await running.ask(secret)).status_code == 401


async def test_a_key_may_ask_for_its_models_only(upstream: FakeServer, tmp_path: Path) -> None:
    async with gateway(configured(upstream, tmp_path, allow_tiers=True)) as running:
        secret = await running.key(models=("support/large",))
        refused = await running.ask(secret, model="support")
        allowed = await running.ask(secret, model="support/large")
        unknown = await running.ask(secret, model="nobody")
    assert refused.status_code == 403
    assert "support/large" in refused.json()["error"]["message"]
    assert allowed.json()["tier"] == "large"
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"


async def test_a_single_tier_asks_no_other(upstream: FakeServer, tmp_path: Path) -> None:
    async with gateway(configured(upstream, tmp_path, allow_tiers=True)) as running:
        await running.ask(await running.key(), model="support/large")
    assert [received.body["model"] for received in upstream.received] == ["large"]


async def test_more_requests_than_the_rate_are_told_when_to_come_again(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with gateway(configured(upstream, tmp_path)) as running:
        secret = await running.key(per_minute=2)
        answers = [await running.ask(secret) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 30
    assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"


async def test_one_more_than_the_queue_holds_gets_429_and_the_rest_are_answered(
    upstream: FakeServer, tmp_path: Path
) -> None:
    upstream.will(*[replies.json_reply(replies.openai_body("slow"), delay_s=3)] * 2)
    narrow = {"concurrency": 1, "queue": 1}
    async with gateway(configured(upstream, tmp_path, cascade=narrow)) as running:
        secret = await running.key()
        first = asyncio.create_task(running.ask(secret))
        await upstream.has_received(1)
        second = asyncio.create_task(running.ask(secret))
        await until(lambda: running.service.served["support"].gate.waiting)
        third = await running.ask(secret)
        assert (await first).status_code == (await second).status_code == 200
    assert third.status_code == 429
    assert third.headers["retry-after"] == "1"
    assert third.json()["error"]["code"] == "queue_full"


async def test_who_waits_too_long_gets_429(upstream: FakeServer, tmp_path: Path) -> None:
    upstream.will(replies.HANG)
    narrow = {"concurrency": 1, "queue_timeout_s": 0.1}
    config = configured(upstream, tmp_path, cascade=narrow, shutdown_grace_s=0.1)
    async with gateway(config) as running:
        secret = await running.key()
        first = asyncio.create_task(running.ask(secret))
        await upstream.has_received(1)
        second = await running.ask(secret)
        assert running.service.served["support"].gate.waiting == 0
        first.cancel()
    assert second.status_code == 429
    assert "within 0.1 s" in second.json()["error"]["message"]


async def test_who_goes_away_while_waiting_gives_the_place_to_the_next(
    upstream: FakeServer, tmp_path: Path
) -> None:
    upstream.will(replies.openai_reply("slow", delay_s=0.5))
    async with gateway(configured(upstream, tmp_path, cascade={"concurrency": 1})) as running:
        gate = running.service.served["support"].gate

        async def through() -> None:
            async with gate.through():
                await asyncio.sleep(0.05)

        async def crowd() -> None:
            tasks = [asyncio.create_task(through()) for _ in range(6)]
            await asyncio.sleep(0.01)
            tasks[0].cancel()
            tasks[2].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        await running.in_loop(crowd())
        assert (gate.running, gate.waiting) == (0, 0)
        assert (await running.ask(await running.key())).status_code == 200


async def test_a_failing_upstream_is_told_in_the_protocols_shape_without_the_providers_key(
    upstream: FakeServer, tmp_path: Path
) -> None:
    upstream.will(*[replies.error(401, "wrong key")] * 4)
    async with gateway(configured(upstream, tmp_path)) as running:
        answer = await running.ask(await running.key(), text="a secret prompt")
    assert answer.status_code == 502
    assert answer.json()["error"]["type"] == "upstream_error"
    assert "sk-upstream-secret" not in answer.text
    assert "secret prompt" not in answer.text


async def test_an_unexpected_error_shows_neither_words_nor_a_traceback(
    upstream: FakeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway(configured(upstream, tmp_path)) as running:
        words = "".join(["hunter", "2"])

        @running.app.get("/test/broken")
        async def broken() -> None:
            raise ValueError(f"the prompt was: {words}")

        answer = await running.get("/test/broken")
        ollama = running.app.get("/api/broken")
        ollama(broken)
        other = await running.get("/api/broken")
    assert answer.status_code == other.status_code == 500
    assert "hunter2" not in answer.text
    assert answer.json()["error"]["code"] == "internal_error"
    assert isinstance(other.json()["error"], str)
    assert "hunter2" not in caplog.text
    assert "test_admission.py" in caplog.text


async def test_without_keys_nobody_is_asked_for_one(upstream: FakeServer, tmp_path: Path) -> None:
    async with gateway(configured(upstream, tmp_path, auth=False, ledger=None)) as running:
        assert (await running.ask()).status_code == 200
        assert (await running.get("/admin/cascades")).status_code == 200
