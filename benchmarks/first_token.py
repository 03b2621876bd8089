"""How long a reader waits for the first word and for the last, by the way in which they are shown.

    python benchmarks/first_token.py

A small model that writes a word every 10 ms and a large one every 25 ms after half a second,
20 words each, stand in for yours: the waits follow from these times, and what the cascade adds
to them is the difference.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncGenerator
from typing import Any, get_args

from langchain_core.language_models import BaseChatModel

from cascade import Cascade
from cascade.agents.showing import Show
from cascade.events import Provisional, Token
from cascade.models import Chunk, Model, Request
from cascade.result import CascadeResult
from cascade.state import Completion
from cascade.testing import reply

WORDS = 20
TEXT = " ".join(["word"] * WORDS)


class Paced(Model):
    """Writes at a pace."""

    provider = "paced"
    real = False
    returns_logprobs = True

    def __init__(self, name: str, first_s: float, each_s: float, probability: float) -> None:
        self.model = name
        self._first_s, self._each_s = first_s, each_s
        self._answer = reply(TEXT, probability=probability)

    async def _complete(self, request: Request) -> Completion:
        await asyncio.sleep(self._first_s + WORDS * self._each_s)
        return self._answer

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        await asyncio.sleep(self._first_s)
        for word in TEXT.split():
            await asyncio.sleep(self._each_s)
            yield Chunk(f"{word} ")
        yield Chunk(completion=self._answer)


async def waits(model: BaseChatModel, n: int) -> tuple[float, float]:
    """Median seconds to the first word that is shown, and to the end."""
    first, last = [], []
    for _ in range(n):
        begun = time.perf_counter()
        shown = None
        async for chunk in model.astream("?"):
            if shown is None and chunk.text:
                shown = time.perf_counter() - begun
        first.append(shown or 0.0)
        last.append(time.perf_counter() - begun)
    return statistics.median(first), statistics.median(last)


async def event_waits(cascade: Cascade, n: int, show: Show) -> tuple[float, float]:
    """The same of the cascade's own events, in one of its three ways."""
    first, last = [], []
    for _ in range(n):
        begun = time.perf_counter()
        shown = None
        async for event in cascade.astream("?", show=show):
            is_text = isinstance(event, Provisional | Token | CascadeResult)
            if shown is None and is_text:
                shown = time.perf_counter() - begun
        first.append(shown or 0.0)
        last.append(time.perf_counter() - begun)
    return statistics.median(first), statistics.median(last)


async def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=9, help="answers of each kind")
    n = parser.parse_args().n
    large = Paced("large", 0.5, 0.025, 0.9)
    rows: dict[str, tuple[Cascade, dict[str, Any]]] = {
        "large model alone": (Cascade(tiers=[large]), {})
    }
    for kind, probability in (("accepted", 0.9), ("escalated", 0.3)):
        cascade = Cascade(Paced("small", 0.05, 0.01, probability), large)
        rows[f"cascade, {kind}"] = (cascade, {})
        rows[f"cascade, {kind}, in one piece"] = (cascade, {"disable_streaming": True})
    print(f"{'':<34}{'first word':>12}{'last word':>12}")
    for name, (cascade, settings) in rows.items():
        first, last = await waits(cascade.as_chat_model(**settings), n)
        print(f"{name:<34}{first:>10.3f} s{last:>10.3f} s")
    for name, (cascade, settings) in rows.items():
        if settings or len(cascade.tiers) == 1:
            continue
        for show in get_args(Show):
            first, last = await event_waits(cascade, n, show)
            print(f"{f'{name}, {show}':<34}{first:>10.3f} s{last:>10.3f} s")


if __name__ == "__main__":
    asyncio.run(main())
