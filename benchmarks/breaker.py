"""What an outage of the large model costs its users, with a circuit breaker and without.

    python benchmarks/breaker.py --outage 60
    python benchmarks/breaker.py --cost

Two servers in processes of their own speak OpenAI's protocol. Questions come at a steady rate,
whatever becomes of those before (30 % of the drafts are doubtful and go on to the large model). For
a while the large server is dead: killed, so that nobody listens, or stopped (SIGSTOP), so that it
takes connections and never answers. `answered` counts questions with an answer, also one that is
marked as degraded; `sent` are the calls of the large model in the outage, `ms more` is how much
longer an escalated question takes than an accepted one while the breaker is open, and `back after`
how long after the server's return the first of its answers came. The calls have a time limit of one
second. `--cost` is the processor time of what stands around a call, and nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from cascade import Cascade, Price, Tier
from cascade.errors import CircuitOpenError, ModelError
from cascade.resilience import OFF, Door, Doors, Resilience, Retries
from cascade.testing import ScriptedModel

UPSTREAM = Path(__file__).resolve().parent / "_upstream.py"
TIMEOUT_S = 1.0
CALLS = 20_000
BEFORE_S, AFTER_S = 3.0, 20.0

Death = Literal["killed", "stopped"]

SETTINGS: dict[str, Resilience] = {
    "breaker, budget": Resilience(),
    "budget alone": Resilience(breaker=None),
    "neither": Resilience(retries=Retries(share=1000, reserve=1000), breaker=None),
}
"""The defaults; the same without a breaker; and as many retries as calls want."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of a question that was asked at a time after the beginning."""

    at_s: float
    seconds: float
    answered: bool
    escalated: bool
    degraded: bool
    sent: int
    not_sent: int


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    death: str
    settings: str
    questions: int
    answered: int
    degraded: int
    sent: int
    p50_ms: float
    p99_ms: float
    open_more_p50_ms: float | None
    open_more_p99_ms: float | None
    back_after_s: float | None


class Server:
    """A server that can be dead for a while, always at the same port."""

    def __init__(self) -> None:
        self.port = 0
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Begin, or begin anew."""
        command = [sys.executable, str(UPSTREAM), "--port", str(self.port)]
        self._process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.port = int((await self._process.stdout.readline()).split()[1])

    async def end(self) -> None:
        """End it for good."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    @asynccontextmanager
    async def dead(self, death: Death) -> AsyncGenerator[None]:
        """Dead until the block ends."""
        assert self._process is not None
        if death == "killed":
            await self.end()
            yield
            await self.start()
        else:
            self._process.send_signal(signal.SIGSTOP)
            yield
            self._process.send_signal(signal.SIGCONT)


async def ask(cascade: Cascade, number: int, begun: float) -> Asked:
    """Ask one question and look at the clock."""
    at = time.perf_counter()
    try:
        result = await cascade.ainvoke(f"question {number}")
    except ModelError as error:
        entries, answered, escalated, degraded = list(error.ledger or ()), False, True, False
    else:
        entries, answered = list(result.ledger), True
        escalated, degraded = result.escalated, result.degraded
    large = [entry for entry in entries if entry.tier == "large"]
    return Asked(
        at - begun,
        time.perf_counter() - at,
        answered,
        escalated,
        degraded,
        sum(entry.model is not None for entry in large),
        sum(entry.outcome == "not_sent" for entry in large),
    )


async def measure(death: Death, name: str, outage_s: float, rate: float) -> Row:
    """One outage, with settings of this name."""
    small, large = Server(), Server()
    await asyncio.gather(small.start(), large.start())
    tiers = [
        Tier(
            f"openai:{tier}",
            name=tier,
            base_url=f"http://127.0.0.1:{server.port}/v1",
            api_key="k",
            price=Price(input=1, output=1),
            timeout_s=TIMEOUT_S,
        )
        for tier, server in (("small", small), ("large", large))
    ]
    cascade = Cascade(*tiers, resilience=SETTINGS[name])
    await cascade.ainvoke("warm up")
    begun, asking = time.perf_counter(), list[asyncio.Task[Asked]]()

    async def come() -> None:
        number = 0
        while True:
            wait_s = begun + number / rate - time.perf_counter()
            await asyncio.sleep(max(0.0, wait_s))
            asking.append(asyncio.create_task(ask(cascade, number, begun)))
            number += 1

    coming = asyncio.create_task(come())
    await asyncio.sleep(BEFORE_S)
    died_s = time.perf_counter() - begun
    async with large.dead(death):
        await asyncio.sleep(outage_s)
        over_s = time.perf_counter() - begun
    back_s = time.perf_counter() - begun
    await asyncio.sleep(AFTER_S)
    coming.cancel()
    found = await asyncio.gather(*asking)
    await cascade.aclose()
    await asyncio.gather(small.end(), large.end())
    return row(death, name, found, died_s, over_s, back_s)


def row(
    death: Death, name: str, found: Sequence[Asked], died_s: float, over_s: float, back_s: float
) -> Row:
    """What the questions in the outage say."""
    within = [one for one in found if died_s <= one.at_s < over_s]
    shut = [one.seconds * 1000 for one in within if one.not_sent and not one.sent]
    drafts = [one.seconds * 1000 for one in within if not one.escalated]
    well = [one for one in found if one.at_s + one.seconds > back_s]
    back = [one.at_s + one.seconds for one in well if one.escalated and not one.degraded]
    escalated = [one.seconds * 1000 for one in within if one.escalated]
    return Row(
        death=death,
        settings=name,
        questions=len(within),
        answered=sum(one.answered for one in within),
        degraded=sum(one.degraded for one in within),
        sent=sum(one.sent for one in within),
        p50_ms=statistics.median(escalated),
        p99_ms=_p99(escalated),
        open_more_p50_ms=statistics.median(shut) - statistics.median(drafts) if shut else None,
        open_more_p99_ms=_p99(shut) - _p99(drafts) if shut else None,
        back_after_s=min(back) - back_s if back else None,
    )


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))]


async def cost() -> None:
    """Print what a call pays for its door, in microseconds of processor time."""

    async def passing(door: Door) -> None:
        (await door.enter(lasts_s=120)).end(failed=False)

    async def refused(door: Door) -> None:
        with suppress(CircuitOpenError):
            await door.enter(lasts_s=120)

    async def best_us(door: Door, call: Callable[[Door], Awaitable[None]]) -> float:
        found = []
        for _ in range(9):
            began = time.process_time()
            for _ in range(CALLS):
                await call(door)
            found.append((time.process_time() - began) / CALLS * 1e6)
        return min(found)

    model = ScriptedModel("x")
    usual, off = Doors().of("large", model), Doors(OFF).of("large", model)
    more = await best_us(usual, passing) - await best_us(off, passing)
    for _ in range(5):
        (await usual.enter()).end(failed=True)
    print(f"a call that finds all well: {more:.1f} µs more than without")
    print(f"a call that is refused: {await best_us(usual, refused):.1f} µs")


def told(line: Row) -> str:
    """A line of the table."""

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:,.1f}"

    return (
        f"| {line.death} | {line.settings} | {line.answered} of {line.questions} "
        f"| {line.degraded} | {line.sent} | {line.p50_ms:,.1f} / {line.p99_ms:,.1f} "
        f"| {number(line.open_more_p50_ms)} / {number(line.open_more_p99_ms)} "
        f"| {number(line.back_after_s)} s |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--outage", type=float, default=15.0, help="seconds")
    parser.add_argument("--rate", type=float, default=20.0, help="questions a second")
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.getLogger("cascade").setLevel(logging.CRITICAL)  # degraded answers are counted here
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    if options.cost:
        asyncio.run(cost())
        return
    if not options.json:
        print(
            "| large server | with | answered | degraded | sent | escalated, ms (p50 / p99) "
            "| while open, ms more (p50 / p99) | back after |\n|---|---|---|---|---|---|---|---|"
        )
    deaths: tuple[Death, ...] = ("killed", "stopped")
    for death in deaths:
        for name in SETTINGS:
            line = asyncio.run(measure(death, name, options.outage, options.rate))
            print(json.dumps(asdict(line)) if options.json else told(line), flush=True)


if __name__ == "__main__":
    main()
