"""Heavy: the embedded model through the cascade, beside a bare loop over xllamacpp (3 minutes).

    python benchmarks/embedded.py [--questions 16] [--rounds 3] [--tokens 48] [--json]

Draft and self-check (`p_true`) of each question on SmolLM2-135M, with every draft accepted: through
`Cascade.ainvoke`, then the very same requests one by one into `handle_chat_completions`, without
anything around them. No prompt is read from a cache, on either side. Rounds alternate; tokens are
those that the model wrote, ratios are medians of the ratios within a round. Then the same questions
8 at once, in slots of one process; and how long the first token takes after a cold start, and
afterwards with the weights in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

from cascade import Cascade, Price, Tier
from cascade.events import Provisional
from cascade.models.llamacpp_engine import Engine
from cascade.policies import ThresholdPolicy
from cascade.testing import ScriptedModel

SLOTS = 8
QUESTIONS = (
    "Name a city in {}.",
    "What is {} known for?",
    "Write a sentence about {}.",
    "Which language do people speak in {}?",
)
PLACES = ("France", "Japan", "Brazil", "Egypt", "Canada", "India", "Kenya", "Norway")
Payload = dict[str, Any]


def questions(n: int) -> list[str]:
    """So many different ones."""
    all_of_them = [form.format(place) for form in QUESTIONS for place in PLACES]
    return [all_of_them[i % len(all_of_them)] for i in range(n)]


def embedded(tokens: int) -> Cascade:
    """A cascade whose small model accepts all that it writes, after a self-check."""
    small = Tier(
        "llamacpp:smollm2-135m",
        price=Price(input=0.01, output=0.02),
        max_tokens=tokens,
        temperature=0.0,
        options={"n_parallel": SLOTS, "cache_prompt": False},
    )
    large = Tier(ScriptedModel(["?"]), price=Price(input=1, output=2))
    return Cascade(small, large, signals=["p_true"], policy=ThresholdPolicy(0.0))


@contextmanager
def listening() -> Iterator[list[Payload]]:
    """The requests that reach llama.cpp meanwhile."""
    heard: list[Payload] = []
    plain = Engine.chunks

    def chunks(self: Engine, payload: Payload) -> AsyncGenerator[dict[str, Any]]:
        heard.append(payload)
        return plain(self, payload)

    Engine.chunks = chunks  # type: ignore[method-assign]
    try:
        yield heard
    finally:
        Engine.chunks = plain  # type: ignore[method-assign]


def bare(server: Any, payloads: list[Payload]) -> tuple[float, int]:
    """Seconds and tokens of the same requests in a bare loop."""
    tokens = 0

    def hear(reply: Any) -> bool:
        nonlocal tokens
        tokens += (reply.get("usage") or {}).get("completion_tokens") or 0
        return False

    begun = time.perf_counter()
    for payload in payloads:
        server.handle_chat_completions(payload, hear)
    return time.perf_counter() - begun, tokens


async def through(cascade: Cascade, asked: list[str], at_once: int) -> tuple[float, int]:
    """Seconds and tokens through the cascade."""
    left, tokens = iter(asked), 0

    async def worker() -> None:
        nonlocal tokens
        for question in left:
            result = await cascade.ainvoke(question)
            tokens += sum(entry.output_tokens or 0 for entry in result.ledger.entries)

    begun = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return time.perf_counter() - begun, tokens


async def first_token_ms(cascade: Cascade) -> float:
    """Until the reader who wants drafts at once sees the first piece."""
    begun = time.perf_counter()
    async for event in cascade.astream("Name a city in Italy.", show="optimistic"):
        if isinstance(event, Provisional):
            return 1000 * (time.perf_counter() - begun)
    raise SystemExit("no draft was shown")


async def measure(n: int, rounds: int, tokens: int) -> dict[str, float]:
    """All figures."""
    cascade, asked = embedded(tokens), questions(n)
    cold = await first_token_ms(cascade)
    warm = statistics.median([await first_token_ms(cascade) for _ in range(5)])
    with listening() as payloads:
        await through(cascade, asked, 1)
    engine = cascade.tiers[0].model._shared_engine()  # type: ignore[attr-defined] # noqa: SLF001
    server = engine._loaded()  # noqa: SLF001 - the bare loop is over what is in memory already
    rows = []
    for _ in range(rounds):
        ours_s, ours_tokens = await through(cascade, asked, 1)
        bare_s, bare_tokens = await asyncio.to_thread(bare, server, payloads)
        many_s, many_tokens = await through(cascade, asked, SLOTS)
        rows.append((ours_tokens / ours_s, bare_tokens / bare_s, many_tokens / many_s))
    del server, engine  # else it is taken apart after all else, which never ends
    await cascade.aclose()
    middle = [statistics.median(column) for column in zip(*rows, strict=True)]
    return {
        "ours_tokens_per_s": middle[0],
        "bare_tokens_per_s": middle[1],
        "ours_by_bare": statistics.median(row[0] / row[1] for row in rows),
        f"at_once_{SLOTS}_tokens_per_s": middle[2],
        f"at_once_{SLOTS}_by_one": statistics.median(row[2] / row[0] for row in rows),
        "first_token_cold_ms": cold,
        "first_token_warm_ms": warm,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    figures = asyncio.run(measure(given.questions, given.rounds, given.tokens))
    if given.json:
        print(json.dumps({"benchmark": "embedded", "questions": given.questions, **figures}))
        return
    for name, value in figures.items():
        print(f"{name:<28}{value:10.2f}")


if __name__ == "__main__":
    main()
