"""Keys, rates, budgets and places."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from cascade.errors import ConfigurationError
from cascade.ledger import open_store
from cascade.service import create_app, read_config
from cascade.service.gateway import address_of
from cascade.service.keys import WRONG_AT_ONCE, Keys, Rates, digest_of
from tests.acceptance.upstream import Answer, Held, Upstream, failure
from tests.service.conftest import Serve, Served

COST = Decimal("0.00121")
"""Of an escalated question."""


@pytest.fixture
async def keys(tmp_path: Path) -> AsyncIterator[Keys]:
    made = Keys(f"sqlite:///{tmp_path}/ledger.db")
    yield made
    await made.aclose()


async def test_a_key_is_kept_as_a_hash_until_it_is_revoked(tmp_path: Path, keys: Keys) -> None:
    key, secret = await keys.create("team", day_usd=Decimal("5.10"), tags={"team": "search"})
    assert await keys.find(secret) == key
    assert (key.day_usd, key.tags) == (Decimal("5.10"), {"team": "search"})
    assert secret.encode() not in (tmp_path / "ledger.db").read_bytes()
    assert digest_of(secret) == key.digest not in str(key)
    assert (tmp_path / "ledger.db").stat().st_mode & 0o777 == 0o600
    assert "digest" not in key.model_dump()
    await keys.revoke(key.id)
    assert await keys.find(secret) is None  # at once


@pytest.mark.parametrize(
    "settings",
    [
        {"name": " "},
        {"name": "two\nlines"},
        {"per_minute": 0.0},
        {"day_usd": Decimal("NaN")},
        {"tags": {"user": 1}},
    ],
)
async def test_a_meaningless_key_is_not_made(keys: Keys, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        await keys.create(**{"name": "team", **settings})


async def test_a_file_of_several_databases_survives_a_process(tmp_path: Path, keys: Keys) -> None:
    """To close a file drops a process's locks on it; then the next process deletes its journal."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    code = (
        "import asyncio, sys; from cascade.service import Keys\n"
        "async def go():\n"
        "    keys = Keys(sys.argv[1])\n"
        "    print((await keys.create('x'))[1])\n"
        "    await keys.aclose()\n"
        "asyncio.run(go())"
    )
    await keys.list()
    with open_store(url) as store:
        assert await store.ready() is None
        for _ in range(2):
            command, out = (sys.executable, "-c", code, url), asyncio.subprocess.PIPE
            done = await asyncio.create_subprocess_exec(*command, stdout=out)
            secret, _ = await done.communicate()
            assert await keys.find(secret.decode().strip())


def test_of_an_address_its_network_counts_where_it_has_many() -> None:
    hosts = ("2001:db8::1", "2001:db8::2", "::ffff:10.0.0.1", "testclient")
    found = [address_of(Request({"type": "http", "client": (host, 1)})) for host in hosts]
    assert found == ["2001:db8::/64", "2001:db8::/64", "10.0.0.1", "testclient"]


async def test_who_guesses_keys_has_to_wait_and_a_known_key_has_not(served: Served) -> None:
    assert (await served.client.get("/v1/models")).status_code == 200
    wrong = [served.as_key(f"csk_{n:043d}") for n in range(WRONG_AT_ONCE + 3)]
    at_once = [served.client.get("/v1/models", headers=headers) for headers in wrong]
    statuses = [answer.status_code for answer in await asyncio.gather(*at_once)]
    right = await served.client.get("/v1/models")
    assert sorted(statuses) == [401] * WRONG_AT_ONCE + [429] * 3
    assert right.status_code == 200


async def test_many_requests_at_once_with_one_key_are_one_guess(keys: Keys) -> None:
    key, secret = await keys.create("team")
    many = 2 * WRONG_AT_ONCE
    assert await asyncio.gather(*(keys.find(secret) for _ in range(many))) == [key] * many


def test_a_rate_fills_evenly() -> None:
    now = 0.0
    rates = Rates(lambda: now)
    assert [rates.take("k", 60.0) for _ in range(61)] == [0] * 60 + [1]
    now = 1.0
    assert [rates.take("k", 60.0, count=n) for n in (1, -1, 1, 1)] == [0, 1, 0, 1]


async def test_who_waits_too_long_for_a_place_gets_429(
    serve: Serve, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascade.service.gateway.PATIENCE_S", 0.01)
    held = Held()
    upstream.says("small", Answer("x", held=held))
    async with serve("    concurrency: 1\n") as served:
        first = asyncio.create_task(served.ask())
        await upstream.has_asked(1, "small")
        late = await served.ask()
        held.release()
        await first
        after = await served.ask()
    assert (late.status_code, late.headers["retry-after"]) == (429, "1")
    assert after.status_code == 200


async def test_money_that_is_only_put_aside_is_waited_for(
    serve: Serve, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascade.service.keys.PATIENCE_S", 0.0)
    held = Held()
    upstream.says("small", Answer("Canberra", held=held, tokens=(100, 10)))
    async with serve() as served:
        key = served.as_key(await served.key("small", day_usd=Decimal("0.003")))
        first = asyncio.create_task(served.ask(key))
        await upstream.has_asked(1, "small")
        second = await served.ask(key)
        held.release()
        assert (await first).status_code == 200
    assert second.status_code == 429
    assert second.headers["retry-after"] == "1"
    assert second.json()["error"]["code"] == "budget_put_aside"


async def test_two_services_keep_a_budget(
    tmp_path: Path, serve: Serve, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascade.service.keys.PATIENCE_S", 60.0)
    upstream.says("small", Answer("draft", p=0.3, tokens=(100, 10)))
    async with serve() as one:
        other = create_app(read_config(tmp_path / "cascade.yaml"))
        async with other.router.lifespan_context(other):
            key = one.as_key(await one.key("spender", month_usd=Decimal("0.006")))
            transport = httpx.ASGITransport(other)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                body = {"model": "support", "messages": [{"role": "user", "content": "Capital?"}]}
                asking, path = [one.ask(key) for _ in range(10)], "/v1/chat/completions"
                asking += [client.post(path, json=body, headers=key) for _ in range(10)]
                answers = await asyncio.gather(*asking)
    done = [answer.status_code for answer in answers]
    assert set(done) == {200, 402}
    assert 0 < done.count(200) * COST <= Decimal("0.006")


async def test_a_failed_request_gives_its_part_back(served: Served, upstream: Upstream) -> None:
    upstream.says("small", failure(400))
    upstream.says("large", failure(400))
    key, secret = await served.gateway.keys.create("team", day_usd=Decimal(1))
    answer = await served.ask(served.as_key(secret))
    await served.gateway.money.aclose()
    account = await served.gateway.money.account(key.id)
    assert answer.status_code == 400
    assert (account.day_usd, account.put_aside_usd) == (0, 0)


async def test_a_call_of_unknown_cost_counts_what_is_configured(
    tmp_path: Path, serve: Serve, upstream: Upstream
) -> None:
    upstream.says("small", Answer("draft", p=0.3, tokens=(100, 10)))
    async with serve() as served:
        path = tmp_path / "cascade.yaml"
        path.write_text(re.sub(", price: {.*?}", "", path.read_text()))
        await served.gateway.reload()
        key = served.as_key(await served.key("team", day_usd=Decimal("0.05")))
        answers = [(await served.ask(key)).status_code for _ in range(4)]
    assert answers == [200, 200, 402, 402]  # two calls each, of $0.01
    assert len(upstream.seen) == 4


async def test_what_audits_cost_is_charged_to_the_key(serve: Serve, upstream: Upstream) -> None:
    async with serve("    audits: 1.0\n") as served:
        key, secret = await served.gateway.keys.create("team", day_usd=Decimal(1))
        await served.ask(served.as_key(secret))
        await served.gateway.served["support"].cascade.aclose()
        await asyncio.sleep(0)
        await served.gateway.money.aclose()
        account = await served.gateway.money.account(key.id)
    assert account.day_usd == Decimal("0.00011") + Decimal("0.0011")


async def test_what_an_upstream_asks_to_wait_is_waited_for_once(
    serve: Serve, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("small", "large"):
        upstream.says(name, failure(429, "slow down", **{"retry-after": "1"}))
    async with serve(cascades={"support": {"retries": 4}}) as served:
        begun = time.monotonic()
        answer = await served.ask()
        took_s = time.monotonic() - begun
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert [len(upstream.asked(name)) for name in ("small", "large")] == [2, 2]
    assert took_s >= 2.0
    assert "failed: rate limited (small: RateLimitError; large: RateLimitError)" in caplog.text
