"""How many questions meet a deadline with hedging and without, and what it costs more.

    python benchmarks/hedging.py

A server on this machine speaks OpenAI's protocol and takes its time: the draft about 0.8 s, the
large model about 1 s (medians of lognormal times, the same for both ways). 30 % of the drafts are
doubtful. A doubtful draft is accepted where the large model could not answer before the deadline
any more, so what hedging changes is how many of them still get the large model's answer. The first
20 questions teach the cascade how long its tiers take and are not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from cascade import Cascade, Price, Tier
from cascade.errors import DeadlineError
from cascade.ledger import LedgerView

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.servers import replies
from tests.servers.fake import FakeServer

DEADLINES_S = (1.5, 1.75, 2.0, 2.5)
DRAFT_S, LARGE_S, SPREAD = 0.8, 1.0, 0.25
"""Medians of the times, and the standard deviation of their logarithms."""

DOUBTFUL = 0.3
WARM = 20


def is_doubtful(question: str) -> bool:
    """Whether the draft is."""
    return random.Random(f"doubt {question}").random() < DOUBTFUL


class Slow(FakeServer):
    """Answers each question of each model after a time of its own."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, self._reply)

    def _reply(self, body: Mapping[str, Any]) -> replies.Reply:
        model, question = body["model"], body["messages"][-1]["content"]
        drawn = random.Random(f"{self._seed} {model} {question}")
        median = DRAFT_S if model == "small" else LARGE_S
        doubtful = is_doubtful(question)
        logprob = -1.0 if doubtful else -0.05
        answered = replies.openai_body(
            "doubtful" if doubtful else "sure",
            usage={"prompt_tokens": 200, "completion_tokens": 100},
            logprobs=[{"token": "x", "logprob": logprob, "top_logprobs": []}],
        )
        return replies.json_reply(answered, delay_s=median * drawn.lognormvariate(0.0, SPREAD))


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of a question."""

    seconds: float
    doubtful: bool
    large: bool
    known_usd: float
    assumed_usd: float
    cancelled: int


async def ask(cascade: Cascade, question: str) -> Asked:
    """Ask one question and look at the clock."""
    begun = time.perf_counter()
    try:
        result = await cascade.ainvoke(question)
    except DeadlineError as error:
        ledger = error.ledger or LedgerView(())
        paid, assumed = float(ledger.known_cost_usd), float(ledger.assumed_usd)
        return Asked(math.inf, is_doubtful(question), False, paid, assumed, 0)
    seconds = time.perf_counter() - begun
    return Asked(
        seconds,
        is_doubtful(question),
        result.tier == "large",
        float(result.ledger.known_cost_usd),
        float(result.ledger.assumed_usd),
        sum(entry.outcome == "cancelled" for entry in result.ledger),
    )


async def measured(
    url: str, n: int, at_once: int, deadline_s: float, *, hedge: bool
) -> list[Asked]:
    """All questions with a cascade of their own, so many at a time."""
    prices = {"small": Price(input=0.1, output=0.4), "large": Price(input=1.25, output=10)}
    tiers = [
        Tier(f"openai:{name}", name=name, base_url=url, api_key="k", price=price)
        for name, price in prices.items()
    ]
    cascade = Cascade(*tiers, deadline=deadline_s, hedge=hedge)
    gate = asyncio.Semaphore(at_once)

    async def one(i: int) -> Asked:
        async with gate:
            return await ask(cascade, f"question {i}")

    await asyncio.gather(*(one(-i) for i in range(1, WARM + 1)))
    found = await asyncio.gather(*(one(i) for i in range(n)))
    await cascade.aclose()
    return list(found)


def told(name: str, deadline_s: float, found: list[Asked]) -> str:
    """A line of the table."""
    doubtful = [one for one in found if one.doubtful]
    in_time = sum(one.seconds <= deadline_s for one in found) / len(found)
    rescued = sum(one.large and one.seconds <= deadline_s for one in doubtful)
    known = sum(one.known_usd for one in found)
    assumed = sum(one.assumed_usd for one in found)
    cancelled = sum(one.cancelled for one in found)
    return (
        f"| {deadline_s} s | {name} | {in_time:.1%} | {rescued} of {len(doubtful)} | {cancelled} "
        f"| ${known:.4f} | ${assumed:.4f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger("cascade").setLevel(logging.ERROR)  # drafts that stand in are counted here
    print("| deadline | | in time | doubtful, large in time | cancelled | paid | assumed |")
    print("|---|---|---|---|---|---|---|")
    n, at_once = options.questions, options.at_once
    with Slow(options.seed) as server:
        for deadline_s in DEADLINES_S:
            for name, hedge in (("one after the other", False), ("hedged", True)):
                asked = measured(server.openai_url, n, at_once, deadline_s, hedge=hedge)
                print(told(name, deadline_s, asyncio.run(asked)), flush=True)


if __name__ == "__main__":
    main()
