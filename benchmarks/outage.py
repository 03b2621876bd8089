"""Heavy: what an outage of the large model costs its users, with a circuit breaker and without.

    python benchmarks/outage.py [--seconds 20] [--rate 20] [--json]

Two servers of this machine, `_upstream.py`, answer at once; 30 % of the questions go on to the
large model. Questions come at a steady rate, whatever becomes of those before. For a while the
large server is dead: killed, so that nobody listens, or stopped (SIGSTOP), so that it takes
connections and never answers. Calls have a time limit of 1 s, and questions a deadline of 3 s.
`sent` are calls of the large model in the outage, `longest` is of all questions, and `back after`
how long after the server's return its first answer came.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from _upstream import upstream, upstream_process

from cascade import Cascade, Price, Tier
from cascade.middleware import Breaker, CascadeMiddleware, Retries

BEFORE_S, AFTER_S, TIMEOUT_S, DEADLINE_S = 2.0, 18.0, 1.0, 3.0
NEVER_OPEN = 1_000_000

WAYS: dict[str, Any] = {
    "breaker and budget": list,
    "budget alone": lambda: [Breaker(in_a_row=NEVER_OPEN)],
    "neither": lambda: [
        Retries(share=NEVER_OPEN, reserve=NEVER_OPEN),
        Breaker(in_a_row=NEVER_OPEN),
    ],
}
"""The defaults; the same without a breaker; and as many retries as calls want."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question: when it came and ended, and by whom it was answered ("" for nobody)."""

    at_s: float
    seconds: float
    tier: str
    degraded: bool
    sent: int


async def outage(
    death: str, middleware: list[CascadeMiddleware], seconds: float, rate: float
) -> tuple[list[Asked], float]:
    """All questions of one outage, and when the server was back."""
    with ExitStack() as stack:
        small = stack.enter_context(upstream())
        port, large = stack.enter_context(upstream_process())
        cascade = Cascade(
            _tier("small", small), _tier("large", port), middleware=middleware, deadline=DEADLINE_S
        )
        asked: list[Asked] = []
        began = time.monotonic()

        async def ask(number: int) -> None:
            at = time.monotonic() - began
            result = await cascade.ainvoke(f"question {number}?")
            sent = sum(e.node == "expert" and e.outcome != "not_sent" for e in result.ledger)
            took = time.monotonic() - began - at
            asked.append(Asked(at, took, result.tier, result.degraded, sent))

        back_s = BEFORE_S + seconds
        dead, number, tasks = False, 0, []
        while (now := time.monotonic() - began) < back_s + AFTER_S:
            if not dead and BEFORE_S <= now < back_s:
                dead = True
                large.send_signal(signal.SIGKILL if death == "killed" else signal.SIGSTOP)
            elif dead and now >= back_s:
                dead = False
                if death == "killed":
                    stack.enter_context(upstream_process(port))
                else:
                    large.send_signal(signal.SIGCONT)
            tasks.append(asyncio.create_task(ask(number)))
            number += 1
            await asyncio.sleep(max(0.0, number / rate - (time.monotonic() - began)))
        await asyncio.gather(*tasks)
        await cascade.aclose()
        return asked, back_s


def _tier(name: str, port: int) -> Tier:
    return Tier(
        f"openai:{name}",
        base_url=f"http://127.0.0.1:{port}/v1",
        api_key="x",
        price=Price(input=1, output=4),
        timeout_s=TIMEOUT_S,
    )


def figures(asked: list[Asked], back_s: float) -> dict[str, float]:
    """What an outage came to."""
    down = [a for a in asked if BEFORE_S <= a.at_s < back_s]
    wanted = [a for a in down if a.degraded or a.tier == "large"]
    took = sorted(1000 * a.seconds for a in wanted)
    back = [a.at_s + a.seconds - back_s for a in asked if a.tier == "large" and a.at_s >= back_s]
    return {
        "answered": sum(bool(a.tier) for a in asked) / len(asked),
        "degraded": sum(a.degraded for a in asked),
        "sent": sum(a.sent for a in down),
        "p50 ms": statistics.median(took),
        "p99 ms": took[int(0.99 * (len(took) - 1))],
        "longest s": max(a.seconds for a in asked),
        "back after s": min(back, default=AFTER_S),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of each outage")
    parser.add_argument("--rate", type=float, default=20.0, help="questions a second")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    logging.getLogger("cascade").setLevel(logging.CRITICAL)
    found: dict[str, dict[str, float]] = {}
    for death in ("killed", "stopped"):
        for name, way in WAYS.items():
            made = asyncio.run(outage(death, way(), given.seconds, given.rate))
            found[f"{death}, {name}"] = figures(*made)
    if given.json:
        print(json.dumps({"benchmark": "outage", "rate": given.rate, "outages": found}))
        return
    print(f"{'':<28}" + "".join(f"{unit:>13}" for unit in next(iter(found.values()))))
    for name, row in found.items():
        print(f"{name:<28}" + "".join(f"{value:13,.2f}" for value in row.values()))


if __name__ == "__main__":
    main()
