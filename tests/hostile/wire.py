"""Raw bytes to a gateway, and what comes back: what no HTTP client would send."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass

from tests.service.gateway import Gateway

PATIENCE_S = 30.0

ASKED = json.dumps(
    {"model": "support", "messages": [{"role": "user", "content": "hello"}]}
).encode()


def port_of(running: Gateway) -> int:
    return int(running.server.address.rpartition(":")[2])


def head(*headers: str, path: str = "/v1/chat/completions", method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: here", "Content-Type: application/json", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@dataclass
class Wire:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> bool:
        """Send all of it; False where the other side has closed meanwhile."""
        with contextlib.suppress(ConnectionError):
            self.writer.write(data)
            await asyncio.wait_for(self.writer.drain(), PATIENCE_S)
            return not self.writer.is_closing()
        return False

    async def rest(self) -> bytes:
        """Everything that comes until the other side closes."""
        parts = []
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_S):
                while part := await self.reader.read(65536):
                    parts.append(part)
        return b"".join(parts)

    async def answer(self) -> bytes:
        """One answer with a length, or what there is at the end."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                top = await self.reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as error:
                return error.partial
            for line in top.split(b"\r\n"):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    return top + await self.reader.readexactly(int(value))
        return top

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


async def wire(running: Gateway) -> Wire:
    return Wire(*await asyncio.open_connection("127.0.0.1", port_of(running)))


async def said(running: Gateway, data: bytes) -> bytes:
    """The first answer to some bytes."""
    line = await wire(running)
    try:
        await line.send(data)
        return await line.answer()
    finally:
        await line.close()


def status_of(answer: bytes) -> int:
    first = answer.split(b"\r\n", 1)[0].split(b" ")
    return int(first[1]) if len(first) > 1 else 0
