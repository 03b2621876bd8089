"""What a reply must not do, whoever sends it: lead elsewhere, or go on for ever."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from cascade.models.failures import Caller

LARGEST_REPLY = 64 * 2**20
"""Bytes of a reply after decompression. An answer of 100,000 tokens with two alternatives each
stays far below; what is above it is no answer, and would fill the memory."""


class Response(Protocol):
    """A reply of httpx or httpx2, which are alike and know nothing of each other."""

    status_code: int
    aiter_bytes: Callable[..., AsyncGenerator[bytes]]

    @property
    def headers(self) -> Mapping[str, str]:
        """Of the reply."""
        ...


def hooks(caller: Caller) -> dict[str, list[Callable[[Any], Awaitable[None]]]]:
    """The `event_hooks` of an HTTP client that keep its replies within bounds.

    Redirects are not followed: the question and the key would go to whomever a reply names.
    """

    async def look(response: Response) -> None:
        if 300 <= response.status_code < 400:
            raise caller.moved(response.status_code, response.headers.get("location"))
        read = response.aiter_bytes

        async def bounded(chunk_size: int | None = None) -> AsyncGenerator[bytes]:
            async with aclosing(read(chunk_size)) as parts, aclosing(within(parts, caller)) as kept:
                async for part in kept:
                    yield part

        response.aiter_bytes = bounded

    return {"response": [look]}


def fits(length: int) -> bool:
    """Whether a reply may be so long."""
    return length <= LARGEST_REPLY


async def within(parts: AsyncIterator[bytes], caller: Caller) -> AsyncGenerator[bytes]:
    """The same pieces, as long as they are not too many.

    Raises:
        MalformedResponseError: they are.
    """
    left = LARGEST_REPLY
    async for part in parts:
        left -= len(part)
        if left < 0:
            raise caller.malformed(f"more than {LARGEST_REPLY // 2**20} MiB in one reply")
        yield part
