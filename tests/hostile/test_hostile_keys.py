"""Who guesses keys: what it costs the database, how long it takes, and whom it holds up."""

from __future__ import annotations

import asyncio
import gzip
import secrets
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Request

from cascade.ledger.store import UnavailableError
from cascade.service import guesses as guesses_module
from cascade.service.config import ListenConfig
from cascade.service.guesses import FORGOTTEN_S, FREE, LONGEST_S, Guesses, address_of
from cascade.service.keys import MOST_REMEMBERED, WRONG_FOR_S, Keys
from tests.hostile.wire import head, said, status_of
from tests.servers.fake import FakeServer
from tests.service.conftest import upstream
from tests.service.gateway import Gateway, configured, gateway

__all__ = ["upstream"]


def guess() -> str:
    return "csk_" + secrets.token_urlsafe(32)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Counted(Keys):
    looked_up = 0

    async def _look_up(self, digest: str) -> Any:
        self.looked_up += 1
        return await super()._look_up(digest)


# How long -----------------------------------------------------------------------------------------


def test_some_wrong_keys_cost_nothing_and_then_each_one_doubles_the_delay() -> None:
    clock = Clock()
    guesses, waits = Guesses(clock), []
    for _ in range(FREE + 12):
        wait_s = guesses.wait_s("a")
        waits.append(wait_s or 0.0)
        clock.now += wait_s or 0.0
        guesses.count("a")
    doubled = [2.0**n for n in range(12)]
    assert waits[:FREE] == [0.0] * FREE
    assert waits[FREE:] == [min(LONGEST_S, delay) for delay in doubled]
    assert guesses.wait_s("b") is None


def test_an_address_that_stays_quiet_begins_anew() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    for _ in range(3 * FREE):
        guesses.count("a")
    assert guesses.wait_s("a") == LONGEST_S
    clock.now += FORGOTTEN_S
    assert guesses.wait_s("a") is None
    guesses.count("a")
    assert guesses.wait_s("a") is None


def test_a_right_key_does_not_wipe_out_the_wrong_ones_before_it() -> None:
    guesses = Guesses(Clock())
    for _ in range(FREE + 3):
        guesses.count("a")
    before = guesses.wait_s("a")
    guesses.count("a")
    guesses.take_back("a")
    assert guesses.wait_s("a") == before
    guesses.count("b")
    guesses.take_back("b")
    guesses.take_back("nobody")
    assert set(guesses._tried) == {"a"}


def test_addresses_are_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses_module, "MOST_ADDRESSES", 3)
    guesses = Guesses(Clock())
    for address in "abcd":
        guesses.count(address)
    assert set(guesses._tried) == {"b", "c", "d"}


# Which address ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "address"),
    [
        (("192.0.2.7", 5), "192.0.2.7"),
        (("::ffff:192.0.2.7", 5), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 5), "2001:db8:1:2::/64"),
        (("2001:db8:1:2:ffff::1", 5), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5), "fe80::/64"),
        (("testclient" * 20, 5), ("testclient" * 20)[:64]),
        (None, ""),
    ],
)
def test_of_an_ipv6_address_its_network_counts(client: Any, address: str) -> None:
    assert address_of(Request({"type": "http", "client": client, "headers": []})) == address


@pytest.mark.parametrize("wrong", ["*", "proxy.example.org", "10.0.0.0/99"])
def test_proxies_are_named_by_their_addresses(wrong: str) -> None:
    with pytest.raises(ValueError, match="proxies"):
        ListenConfig.model_validate({"proxies": [wrong]})


async def statuses(running: Gateway, n: int, **headers: str) -> list[int]:
    found = []
    for _ in range(n):
        given = {"Authorization": f"Bearer {guess()}", **headers}
        found.append((await running.client.get("/v1/models", headers=given)).status_code)
    return found


@pytest.mark.parametrize("proxies", [["127.0.0.0/8"], []])
async def test_what_a_client_says_of_its_address_counts_only_from_a_proxy_that_is_named(
    upstream: FakeServer, tmp_path: Path, proxies: list[str]
) -> None:
    listen = {"port": 0, "proxies": proxies}
    async with gateway(configured(upstream, tmp_path, listen=listen)) as running:
        # The first one is what a client has made up; the last one is what the proxy has seen.
        first = {"X-Forwarded-For": "203.0.113.1, 192.0.2.1"}
        second = {"X-Forwarded-For": "203.0.113.1, 192.0.2.2"}
        one = await statuses(running, FREE + 2, **first)
        other = await statuses(running, 1, **second)
        counted = set(running.service.guesses._tried)
    assert one.count(401) == FREE
    assert other == ([401] if proxies else [429])
    assert counted == ({"192.0.2.1", "192.0.2.2"} if proxies else {"127.0.0.1"})


# What it costs ------------------------------------------------------------------------------------


async def test_a_wrong_key_is_looked_up_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("cascade.service.keys.time", SimpleNamespace(monotonic=lambda: now))
    keys, wrong = Counted(), guess()
    for _ in range(50):
        assert await keys.find(wrong) is None
    assert keys.looked_up == 1
    now += WRONG_FOR_S
    assert await keys.find(wrong) is None
    assert keys.looked_up == 2


@pytest.mark.parametrize("secret", ["csk_short", "csk_" + "a" * 44, "csk_" + "ä" * 43, "sk-a", ""])
async def test_what_has_not_the_form_of_a_key_is_not_looked_up(secret: str) -> None:
    keys = Counted()
    assert await keys.find(secret) is None
    assert not keys.is_guess(secret)
    assert keys.looked_up == 0


async def test_wrong_keys_are_remembered_up_to_a_number() -> None:
    keys = Keys()
    for _ in range(MOST_REMEMBERED + 5):
        await keys.find(guess())
    assert len(keys._wrong) == MOST_REMEMBERED
    assert not keys._known


async def test_a_guesser_costs_so_many_look_ups_and_no_more(
    upstream: FakeServer, tmp_path: Path
) -> None:
    looked_up = 0
    async with gateway(configured(upstream, tmp_path)) as running:
        keys = running.service.keys
        real = keys._look_up

        async def counted(digest: str) -> Any:
            nonlocal looked_up
            looked_up += 1
            return await real(digest)

        keys._look_up = counted  # type: ignore[method-assign]
        tries = [
            running.client.post("/v1/chat/completions", json={}, headers={"X-API-Key": guess()})
            for _ in range(4 * FREE)
        ]
        answers = await asyncio.gather(*tries)
    found = [answer.status_code for answer in answers]
    assert looked_up == FREE
    assert (found.count(401), found.count(429)) == (FREE, 3 * FREE)
    late = next(answer for answer in answers if answer.status_code == 429)
    assert late.json()["error"]["code"] == "too_many_wrong_keys"
    assert int(late.headers["Retry-After"]) >= 1


async def test_a_guesser_holds_up_nobody_who_has_been_in_before(
    upstream: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway(configured(upstream, tmp_path)) as running:
        known, new = await running.key("known"), await running.key("new")
        assert (await running.get("/v1/models", known)).status_code == 200
        await statuses(running, FREE + 1)
        monkeypatch.setattr("cascade.service.keys.KNOWN_FOR_S", 0.0)  # it is looked up again
        again = await running.get("/v1/models", known)
        first = await running.get("/v1/models", new)
    assert (again.status_code, first.status_code) == (200, 429)


async def test_many_with_right_keys_may_begin_at_once(upstream: FakeServer, tmp_path: Path) -> None:
    async with gateway(configured(upstream, tmp_path)) as running:
        keys = [await running.key(f"team-{n}") for n in range(10)]
        asked = [running.get("/v1/models", key) for key in keys * 20]
        found = {answer.status_code for answer in await asyncio.gather(*asked)}
        assert not running.service.guesses._tried
    assert found == {200}


async def test_a_database_that_is_down_counts_as_no_guess(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with gateway(configured(upstream, tmp_path)) as running:

        async def down(digest: str) -> Any:
            raise UnavailableError("the ledger's database: gone")

        running.service.keys._look_up = down  # type: ignore[method-assign]
        assert set(await statuses(running, FREE + 5)) == {503}
        assert not running.service.guesses._tried


async def test_a_long_body_of_somebody_without_a_key_is_not_kept(
    upstream: FakeServer, tmp_path: Path
) -> None:
    kept: list[int] = []
    original = Request.body

    async def watched(self: Request) -> bytes:
        found = await original(self)
        kept.append(len(found))
        return found

    async with gateway(configured(upstream, tmp_path)) as running:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Request, "body", watched)
            answer = await running.client.post(
                "/v1/chat/completions", content=b"x" * 5_000_000, headers={"X-API-Key": guess()}
            )
            # The connection can be used again: all of it was read.
            after = await running.client.get("/healthz")
    assert (answer.status_code, after.status_code) == (401, 200)
    assert not kept


async def test_where_no_conversation_is_sent_a_body_is_short(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with gateway(configured(upstream, tmp_path)) as running:
        for path in ("/admin/keys", "/api/show", "/page/api/play", "/login"):
            answer = await running.client.post(
                path, content=b"[" * 300_000, headers={"Content-Type": "application/json"}
            )
            assert answer.status_code in (413, 415), (path, answer.text)


async def test_a_body_that_is_too_long_by_its_own_word_is_refused_before_it_comes(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        answers = [
            await said(running, head(f"Content-Length: {length}"))
            for length in (10**11, int("9" * 19))
        ]
        unreadable = await said(running, head(f"Content-Length: {'9' * 400}"))
    assert [status_of(answer) for answer in answers] == [413, 413]
    assert status_of(unreadable) == 400


async def test_a_packed_body_is_refused_and_never_unpacked(
    upstream: FakeServer, tmp_path: Path
) -> None:
    bomb = gzip.compress(b" " * 5_000_000)
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        for coding in ("gzip", "deflate", "br", "GZIP", "identity, gzip"):
            answer = await running.client.post(
                "/v1/chat/completions",
                content=bomb,
                headers={"Content-Type": "application/json", "Content-Encoding": coding},
            )
            code = answer.json()["error"]["code"]
            assert (answer.status_code, code) == (415, "packed_body"), coding
