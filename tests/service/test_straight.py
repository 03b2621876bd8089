"""The straight way to the routes that answer: it reads and refuses as FastAPI would."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from cascade.events import Token
from cascade.service.keys import KNOWN_FOR_S, Keys
from cascade.service.protocols.replying import Feed
from cascade.service.protocols.running import Tell
from tests.servers.fake import FakeServer
from tests.service.gateway import configured, gateway, until
from tests.service.talking import talking

PATH = "/v1/chat/completions"
JSON = "application/json"


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (b"{nonsense", JSON, 400, "JSON decode error"),
        (b"[]", JSON, 400, "valid dictionary"),
        (b'{"model": 3, "messages": []}', JSON, 400, "model"),
        (b"", JSON, 400, "JSON decode error"),
        (b'{"model": "support"}', "text/plain", 400, "valid dictionary"),
        (b'{"model": "support"}', "application/jsonp", 400, "valid dictionary"),
        (b"\xff\xfe{", JSON, 400, "parsing the body"),
        (b"[" * 100_000, JSON, 400, "parsing the body"),
    ],
)
async def test_what_is_no_request_is_refused_with_the_reason(
    tmp_path: Path, body: bytes, kind: str, status: int, words: str
) -> None:
    async with talking(tmp_path) as talk:
        found = await talk.http.post(PATH, content=body, headers={"content-type": kind})
    assert found.status_code == status
    assert words in found.json()["error"]["message"]


async def test_json_by_another_name_is_json(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        found = await talk.http.post(
            PATH,
            content=b'{"model": "support", "messages": [{"role": "user", "content": "hi"}]}',
            headers={"content-type": "Application/Vnd.Of-Mine+JSON; charset=utf-8"},
        )
    assert found.status_code == 200


async def test_who_has_no_key_is_told_so_before_the_body_is_read_as_json(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with gateway(configured(upstream, tmp_path)) as running:
        found = await running.client.post(PATH, content=b"{", headers={"content-type": JSON})
    assert found.status_code == 401


async def test_other_methods_and_paths_go_on(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        got = await talk.http.get(PATH)
        slashed = await talk.http.post(f"{PATH}/x", json={})
    assert (got.status_code, slashed.status_code) == (405, 404)


async def test_metrics_know_the_route_and_the_status(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        await talk.chat()
        await talk.chat(n=0)
        text = talk.gateway.service.metrics.text().decode()
    for status in ("200", "400"):
        labels = f'method="POST",route="{PATH}",status="{status}"'
        assert f"cascade_http_requests_total{{{labels}}} 1.0" in text


async def test_a_client_that_goes_away_while_it_sends_is_no_failure_of_the_service(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with talking(tmp_path) as talk:
        address = httpx.URL(talk.gateway.server.address)
        _, writer = await asyncio.open_connection(address.host, address.port)
        head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\n"
        writer.write(f"{head}content-length: 100\r\n\r\n{{".encode())
        await writer.drain()
        writer.close()
        metrics = talk.gateway.service.metrics
        await until(lambda: b'status="499"' in metrics.text(), "the request has ended")
    assert "failed with" not in caplog.text


@pytest.mark.parametrize("where", ["header", "body"])
async def test_a_client_cannot_name_another_cascade_in_its_tags(tmp_path: Path, where: str) -> None:
    async with talking(tmp_path) as talk:
        headers = {"X-Cascade-Tags": "cascade=other"} if where == "header" else {}
        extension = {} if headers else {"cascade": {"tags": {"cascade": "other"}}}
        await talk.chat(headers=headers, **extension)
        store = talk.gateway.service.store
        assert store is not None

        async def tags() -> set[str]:
            await store.flush()
            return {stored.tags["cascade"] async for stored in store.stored()}

        found: set[str] = await talk.gateway.in_loop(tags())
    assert found == {"support"}


# Streams ---------------------------------------------------------------------------------------


async def test_what_happens_at_once_is_told_at_once_and_in_order() -> None:
    async def work(tell: Tell) -> list[object]:
        for text in ("a", "b", "c"):
            tell(0, Token(tier="small", text=text))
            await asyncio.sleep(0)
        return []

    feed = Feed(work)  # type: ignore[arg-type]
    items = await feed.next(5, gather_s=0.05)
    await feed.aclose()
    told = [item[1] for item in items if isinstance(item, tuple)]
    assert told == [Token(tier="small", text=text) for text in ("a", "b", "c")]
    assert len(items) == 4


async def test_nothing_is_told_where_nothing_happens() -> None:
    async def work(tell: Tell) -> list[object]:
        del tell
        await asyncio.Event().wait()
        return []

    feed = Feed(work)  # type: ignore[arg-type]
    assert list(await feed.next(0.01)) == []
    await feed.aclose()


# Keys ------------------------------------------------------------------------------------------


class _Counted(Keys):
    looked_up = 0

    async def _look_up(self, digest: str):  # type: ignore[no-untyped-def]
        self.looked_up += 1
        await asyncio.sleep(0.01)
        return await super()._look_up(digest)


async def test_a_key_is_looked_up_once_for_all_who_wait() -> None:
    keys = _Counted()
    key, secret = await keys.create("team")
    found = await asyncio.gather(*(keys.find(secret) for _ in range(50)))
    assert found == [key] * 50
    assert keys.looked_up == 1


async def test_a_key_in_use_is_looked_up_again_before_anybody_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("cascade.service.keys.time", SimpleNamespace(monotonic=lambda: now))
    keys = _Counted()
    key, secret = await keys.create("team")
    await keys.find(secret)
    now = KNOWN_FOR_S * 0.6
    assert await keys.find(secret) == key
    assert keys.looked_up == 1, "it has only begun"
    await asyncio.gather(*keys._asked.values())
    assert keys.looked_up == 2


async def test_a_look_up_that_was_begun_before_a_key_was_revoked_brings_nothing_back() -> None:
    keys = _Counted()
    key, secret = await keys.create("team")
    asking = asyncio.ensure_future(keys.find(secret))
    await asyncio.sleep(0)
    await keys.revoke(key.id)
    await asking
    assert await keys.find(secret) is None
