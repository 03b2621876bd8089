"""What a connection may do to the service: endless heads, slow clients, smuggled requests."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from cascade.service.connections import LARGEST_HEAD, MOST_HEADERS, SPARE_FILES, places
from tests.hostile.wire import ASKED, head, port_of, said, status_of, wire
from tests.servers import replies
from tests.servers.fake import FakeServer
from tests.service.conftest import upstream
from tests.service.gateway import Gateway, configured, gateway, until

__all__ = ["upstream"]

LENGTH = f"Content-Length: {len(ASKED)}"
NEXT = b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n"


async def still_answers(running: Gateway) -> None:
    assert status_of(await said(running, head(LENGTH) + ASKED)) == 200


MALFORMED = {
    "a length and chunks": head("Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "chunks and a length": head("Transfer-Encoding: chunked", "Content-Length: 5") + b"0\r\n\r\n",
    "two lengths": head("Content-Length: 5", "Content-Length: 6") + b"hello",
    "a length below zero": head("Content-Length: -5") + b"hello",
    "a length with a sign": head("Content-Length: +5") + b"hello",
    "a length that is no number": head("Content-Length: 0x5") + b"hello",
    "a coding that is none": head("Transfer-Encoding: xchunked") + b"0\r\n\r\n",
    "chunked, and something after it": head("Transfer-Encoding: chunked, identity") + b"0\r\n\r\n",
    "a space before the colon": head("Content-Length : 5") + b"hello",
    "a line that goes on": head("X-A: b", " c", "Content-Length: 0"),
    "lines that end without a return": head("Content-Length: 0").replace(b"\r\n", b"\n"),
    "a zero byte in a value": head("X-A: a\x00b", "Content-Length: 0"),
    "a newline in a value": head("X-A: a\nX-Evil: 1", "Content-Length: 0"),
    "a chunk that has no size": head("Transfer-Encoding: chunked") + b"zz\r\nhello\r\n0\r\n\r\n",
    "a chunk larger than any number": head("Transfer-Encoding: chunked") + b"F" * 17 + b"\r\na",
    "no method that there is": b"SMUGGLE / HTTP/1.1\r\nHost: here\r\n\r\n",
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40,
}


async def test_what_could_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_answered(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async def everything(running: Gateway, data: bytes) -> bytes:
        line = await wire(running)
        await line.send(data + NEXT)
        answers = await line.rest()
        await line.close()
        return answers

    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        for what, data in MALFORMED.items():
            answers = await everything(running, data)
            assert status_of(answers) == 400, (what, answers)
            assert answers.count(b"HTTP/1.1 ") == 1, what
            assert b'"status":"ok"' not in answers, what
        await still_answers(running)
    assert len(upstream.received) == 2, "the last one's draft and its escalation"


HEADS = {
    "many headers": head(*(f"X-{n}: a" for n in range(MOST_HEADERS))),
    "one long header": head("X-A: " + "a" * LARGEST_HEAD),
    "a long name": head("X-" + "a" * LARGEST_HEAD + ": a"),
    "a long address": head(path="/" + "a" * LARGEST_HEAD),
    "a long query": head(path="/v1/models?" + "a" * LARGEST_HEAD),
    "headers behind the body": head("Transfer-Encoding: chunked")
    + b"0\r\n"
    + b"X: y\r\n" * MOST_HEADERS
    + b"\r\n",
}


async def test_a_head_without_measure_is_refused(upstream: FakeServer, tmp_path: Path) -> None:
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        for what, data in HEADS.items():
            answer = await said(running, data)
            assert status_of(answer) in (400, 431), (what, answer[:200])
        await still_answers(running)


async def test_a_head_that_never_ends_is_refused_before_it_fills_the_memory(
    upstream: FakeServer, tmp_path: Path
) -> None:
    sent = 0
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        line = await wire(running)
        await line.send(b"GET / HTTP/1.1\r\nX-A: ")
        while sent < 200 * LARGEST_HEAD and await line.send(b"a" * 8192):
            sent += 8192
        await line.close()
    assert sent < 200 * LARGEST_HEAD, "it took all of it"


async def test_a_head_as_large_as_clients_send_is_taken(
    upstream: FakeServer, tmp_path: Path
) -> None:
    many = [f"X-{n}: {'a' * 300}" for n in range(100)]
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        assert status_of(await said(running, head(LENGTH, *many) + ASKED)) == 200


async def test_headers_behind_a_body_say_nothing_about_its_request(
    upstream: FakeServer, tmp_path: Path
) -> None:
    size = f"{len(ASKED):x}\r\n".encode()
    async with gateway(configured(upstream, tmp_path)) as running:
        key = await running.key()
        late = b"0\r\nAuthorization: Bearer " + key.encode() + b"\r\n\r\n"
        data = head("Transfer-Encoding: chunked") + size + ASKED + b"\r\n" + late
        answer = await said(running, data)
    assert status_of(answer) == 401


SLOW = {
    "nothing": b"",
    "half a head": b"POST /v1/chat/completions HTTP/1.1\r\nHost: he",
    "a head without its body": head("Content-Length: 500"),
    "half a body": head(LENGTH) + ASKED[:10],
    "half of the chunks": head("Transfer-Encoding: chunked") + b"5\r\nhel",
}


async def test_who_does_not_finish_a_request_is_not_waited_for(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async def begun(running: Gateway, data: bytes) -> bytes:
        line = await wire(running)
        await line.send(data)
        answer = await line.rest()
        await line.close()
        return answer

    listen = {"port": 0, "arrive_s": 0.3}
    async with gateway(configured(upstream, tmp_path, auth=False, listen=listen)) as running:
        answers = await asyncio.gather(*(begun(running, data) for data in SLOW.values()))
        await until(lambda: not running.server.server_state.connections, "closing")
    found = dict(zip(SLOW, map(status_of, answers), strict=True))
    assert found == dict.fromkeys(SLOW, 408)
    assert not upstream.received


async def test_who_sends_a_byte_now_and_then_is_not_waited_for_either(
    upstream: FakeServer, tmp_path: Path
) -> None:
    listen = {"port": 0, "arrive_s": 0.5}
    async with gateway(configured(upstream, tmp_path, auth=False, listen=listen)) as running:
        line = await wire(running)
        await line.send(head("Content-Length: 100000"))

        async def dripping() -> None:
            for _ in range(2000):
                await line.send(b" ")
                await asyncio.sleep(0.02)

        drip = asyncio.create_task(dripping())
        answer = await line.rest()
        drip.cancel()
        await line.close()
    assert status_of(answer) == 408


async def test_an_answer_may_take_longer_than_its_request(
    upstream: FakeServer, tmp_path: Path
) -> None:
    slow = replies.openai_reply("late", delay_s=0.6)
    upstream.will(slow, slow)
    listen = {"port": 0, "arrive_s": 0.3}
    async with gateway(configured(upstream, tmp_path, auth=False, listen=listen)) as running:
        answer = await said(running, head(LENGTH) + ASKED)
    assert status_of(answer) == 200


async def test_who_never_reads_the_answers_is_left(upstream: FakeServer, tmp_path: Path) -> None:
    listen = {"port": 0, "arrive_s": 0.5}
    async with gateway(configured(upstream, tmp_path, auth=False, listen=listen)) as running:
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(("127.0.0.1", port_of(running)))
        # More than the system's buffers hold.
        line.sendall(head(path="/openapi.json", method="GET") * 150)
        await until(lambda: running.server.server_state.total_requests, "answering")
        await until(lambda: not running.server.server_state.connections, "leaving")
        line.close()
        answered = running.server.server_state.total_requests
        await still_answers(running)
    assert answered < 150


async def test_one_connection_more_than_there_may_be_is_refused_until_one_is_free(
    upstream: FakeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listen = {"port": 0, "connections": 3}
    async with gateway(configured(upstream, tmp_path, auth=False, listen=listen)) as running:
        there = running.server.server_state.connections
        held = [await wire(running) for _ in range(3)]
        await until(lambda: len(there) == 3, "connecting")
        extra = [await wire(running) for _ in range(2)]
        answers = [await line.rest() for line in extra]
        await held[0].close()
        await until(lambda: len(there) == 2, "closing")
        await still_answers(running)
        for line in [*held[1:], *extra]:
            await line.close()
    assert [status_of(answer) for answer in answers] == [503, 503]
    assert caplog.text.count("connections are open") == 1


def test_there_are_no_more_places_than_files_that_may_be_open() -> None:
    import resource  # noqa: PLC0415

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, SPARE_FILES + 200), hard))
        assert places(4) == 4
        assert places(100) == 100
        if hard != resource.RLIM_INFINITY:
            assert places(10 * hard) == (hard - SPARE_FILES) // 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_second_request_may_come_before_the_first_is_answered(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        line = await wire(running)
        await line.send((head(LENGTH) + ASKED) * 2)
        answers = [await line.answer(), await line.answer()]
        await line.close()
    assert [status_of(answer) for answer in answers] == [200, 200]


async def test_a_wish_for_another_protocol_is_not_followed(
    upstream: FakeServer, tmp_path: Path
) -> None:
    wish = head("Connection: Upgrade", "Upgrade: websocket", path="/healthz", method="GET")
    async with gateway(configured(upstream, tmp_path, auth=False)) as running:
        answer = await said(running, wish)
    assert status_of(answer) == 200


async def test_who_waits_behind_a_slow_answer_is_not_refused_for_it(
    upstream: FakeServer, tmp_path: Path
) -> None:
    slow = replies.openai_reply("late", delay_s=0.7)
    upstream.will(slow, slow)
    listen = {"port": 0, "arrive_s": 1.0}
    # Longer than what is read ahead: the rest of it waits until the first answer is there.
    long = json.dumps(json.loads(ASKED) | {"user": "x" * 1_000_000}).encode()
    async with gateway(configured(upstream, tmp_path, auth=False, listen=listen)) as running:
        line = await wire(running)
        both = head(LENGTH) + ASKED + head(f"Content-Length: {len(long)}") + long
        sending = asyncio.create_task(line.send(both))
        answers = [await line.answer(), await line.answer()]
        await sending
        await line.close()
    assert [status_of(answer) for answer in answers] == [200, 200]
