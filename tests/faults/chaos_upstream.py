"""The faulty upstream of a chaos run in a process of its own, which is the witness of all calls.

    python -m tests.faults.chaos_upstream SEED FAULTY [GROUP …]

prints its port; for each line on its standard input it answers with a line of JSON: which
calls it has seen, and what they met. It ends with its standard input.
"""

from __future__ import annotations

import json
import logging
import random
import re
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from tests.servers.faults import FAULTS, Fault
from tests.servers.faulty import FINE, FaultyServer, Latency
from tests.servers.saying import Asked, Protocol, Said

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("small", "middle", "large")
UNSURE_PERCENT = 30
"""Of the questions, whose drafts have low log-probs."""

NUMBER = re.compile(r"request-(\d+)")
"""How a request is told from others: by its number, in the question and in the answer."""

Call = tuple[str, str]
"""The number of a request, and a model."""


@dataclass(frozen=True)
class Seen:
    """What the upstream says.

    Attributes:
        met: the faults that each call met, as often as it arrived; `fine` for none.
    """

    met: Mapping[Call, Sequence[str]]

    @property
    def calls(self) -> Counter[Call]:
        """How often each call arrived."""
        return Counter({call: len(faults) for call, faults in self.met.items()})

    @property
    def sent(self) -> Counter[str]:
        """Replies by fault."""
        return Counter(fault for faults in self.met.values() for fault in faults)

    def since(self, before: Seen) -> Seen:
        """What was seen since then."""
        met = {call: list(faults) for call, faults in self.met.items()}
        for call, faults in before.met.items():
            met[call] = met[call][len(faults) :]
        return Seen(met)


def answered(asked: Asked) -> Said:
    """An answer that repeats the number of its request, sure or unsure by the number."""
    if asked.is_check:
        return Said.of("True", input_tokens=20, output_tokens=1)
    found = NUMBER.search(asked.question)
    number = "none" if found is None else found[0]
    unsure = asked.model != "large" and zlib.crc32(number.encode()) % 100 < UNSURE_PERCENT
    text = f"The answer to {number} is the one in the table."
    return Said.of(text, logprob=-2.3 if unsure else -0.02, input_tokens=20, output_tokens=10)


class WitnessServer(FaultyServer):
    """A faulty server that counts which request's calls it has seen, before it answers them."""

    def __init__(self, seed: int, faulty: float, groups: Sequence[str]) -> None:
        faults = [fault for fault in FAULTS if not groups or fault.group in groups]
        shares: dict[str, float] = dict.fromkeys(MODELS, faulty)
        latency = {name: Latency(0.01 * place) for place, name in enumerate(MODELS, 1)}
        super().__init__(
            seed=seed, shares=shares, faults=faults, latency=latency, answering=answered
        )
        self.met: dict[Call, list[str]] = {}
        self._meeting: Call = ("none", "none")

    async def _meet(self, request: web.Request, protocol: Protocol) -> web.StreamResponse:
        raw = (await request.read()).decode()
        found = NUMBER.search(raw)
        # What was read once is there at once: nothing else runs until the fault is drawn.
        self._meeting = ("none" if found is None else found[1], str(json.loads(raw)["model"]))
        return await super()._meet(request, protocol)

    def _next(self, asked: Asked, chance: random.Random) -> Fault | None:
        fault = super()._next(asked, chance)
        self.met.setdefault(self._meeting, []).append(FINE if fault is None else fault.name)
        return fault

    def told(self) -> str:
        """What was seen and sent, as JSON."""
        return json.dumps([[*call, faults] for call, faults in list(self.met.items())])


@dataclass(frozen=True)
class Upstream:
    """The process, from outside."""

    port: int
    process: subprocess.Popen[str]

    @property
    def urls(self) -> Mapping[Protocol, str]:
        """Base URLs of tiers."""
        url = f"http://127.0.0.1:{self.port}"
        return {"openai": f"{url}/v1", "ollama": url}

    def seen(self) -> Seen:
        """What it has seen so far."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        told = json.loads(self.process.stdout.readline())
        return Seen({(number, model): faults for number, model, faults in told})


@contextmanager
def upstream(seed: int, faulty: float, groups: Sequence[str] = ()) -> Iterator[Upstream]:
    """Start one, with faults of these groups or of all; it is gone afterwards."""
    command = [sys.executable, "-m", "tests.faults.chaos_upstream", str(seed), str(faulty)]
    command += groups
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        try:
            yield Upstream(int(process.stdout.readline()), process)
        finally:
            process.terminate()


def main() -> None:
    """Serve until there are no more lines; that clients leave is nothing to complain of."""
    logging.disable()
    seed, faulty, *groups = sys.argv[1:]
    with WitnessServer(int(seed), float(faulty), groups) as server:
        print(server.port, flush=True)
        for _ in sys.stdin:
            print(server.told(), flush=True)


if __name__ == "__main__":
    main()
