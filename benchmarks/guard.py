"""Whether the cascade has become slower: its CPU per request, beside that of the bare client.

    python benchmarks/guard.py [--json] [--write]

`ours` and `client` of `_drivers.py` take turns, a few requests each, on the same upstream, and each
is taken at its best turn: what else runs on the machine makes turns slower, never faster. The ratio
of the two is compared with the one in `guard.json`. Where it is more than a third above that, there
are more turns, three times at most, and then it fails. `--write` writes a new `guard.json`, for a
change that is meant.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from _drivers import DRIVERS, Ask
from _upstream import upstream
from overhead import phase

FILE = Path(__file__).with_name("guard.json")
NAMES = ("ours", "client")
ALLOWED = 4 / 3
TRIES = 3
TURNS, REQUESTS, AT_A_TIME = 20, 50, 4
FIRST = 100
"""Requests before the first turn: connections, caches and code are warm after that."""


async def serve(name: str, port: int, burn_us: float) -> None:
    """Take a turn for each line that comes in, and say what CPU a request took, in ms."""

    def slower(ask: Ask) -> Ask:
        async def burning(question: str) -> str:
            until = time.thread_time() + burn_us / 1e6
            while time.thread_time() < until:
                pass
            return await ask(question)

        return burning if burn_us else ask

    with tempfile.TemporaryDirectory() as folder:
        async with DRIVERS[name](f"http://127.0.0.1:{port}/v1", Path(folder)) as plain:
            ask = slower(plain)
            while line := await asyncio.to_thread(sys.stdin.readline):
                print((await phase(ask, int(line), AT_A_TIME))["cpu_ms"], flush=True)


class Driver:
    """A driver in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def turn(self, requests: int) -> float:
        """CPU of one request in ms, of so many."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(requests, file=self._process.stdin, flush=True)
        said = self._process.stdout.readline()
        if not said:
            raise SystemExit(f"a driver ended: {self._process.wait()}")
        return float(said)


@contextmanager
def started(name: str, port: int, burn_us: float) -> Iterator[Driver]:
    """A driver, which ends with this."""
    command = [sys.executable, __file__, "--driver", name, "--port", str(port)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [*command, "--burn-us", str(burn_us)], stdin=pipe, stdout=pipe, text=True
    )
    try:
        yield Driver(process)
    finally:
        process.communicate(timeout=30)


def measure(burn_us: float = 0.0) -> dict[str, float]:
    """CPU per request of both in ms, each at its best turn."""
    with ExitStack() as stack:
        port = stack.enter_context(upstream())
        drivers = {
            name: stack.enter_context(started(name, port, burn_us if name == "ours" else 0.0))
            for name in NAMES
        }
        for driver in drivers.values():
            driver.turn(FIRST)
        turns: dict[str, list[float]] = {name: [] for name in NAMES}
        for _ in range(TURNS):
            for name, driver in drivers.items():
                turns[name].append(driver.turn(REQUESTS))
    return {name: min(found) for name, found in turns.items()}


def ratio_of(best: dict[str, float]) -> float:
    """Of ours to the client."""
    return best["ours"] / best["client"]


def write(ratio: float) -> None:
    """Keep a ratio as the one that later ones are compared with."""
    about = {
        "ratio": round(ratio, 3),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
    }
    FILE.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """Measure, compare, and try again where it looks slower."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="keep the ratio that is found now")
    parser.add_argument("--burn-us", type=float, default=0.0, help="make ours slower, as a proof")
    parser.add_argument("--driver", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.driver:
        asyncio.run(serve(given.driver, given.port, given.burn_us))
        return 0
    if given.write:
        write(ratio := ratio_of(measure()))
        print(f"written: {ratio:.3f}")
        return 0
    return compare(json.loads(FILE.read_text(encoding="utf-8")), given)


def compare(kept: dict[str, float], given: argparse.Namespace) -> int:
    """The exit code: 1 where it is slower than it was."""
    limit = ALLOWED * kept["ratio"]
    best: dict[str, float] = dict.fromkeys(NAMES, float("inf"))
    known = f"{kept['ratio']} on {kept['date']} ({kept['machine']})"
    for _ in range(TRIES):
        found = measure(given.burn_us)
        best = {name: min(best[name], found[name]) for name in NAMES}
        said = f"{best['ours']:.2f} ms beside {best['client']:.2f} ms of the bare client"
        ratio = ratio_of(best)
        print(f"CPU per request: {said}, ratio {ratio:.3f}; known: {known}", file=sys.stderr)
        if ratio <= limit:
            break
    if given.json:
        print(json.dumps({"benchmark": "guard", "limit": round(limit, 3), **best}))
    if ratio_of(best) > limit:
        print(f"slower: {ratio_of(best):.3f} is above {limit:.3f}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
