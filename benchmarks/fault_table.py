"""What becomes of a question when a fault strikes: every fault × each tier, over real HTTP.

    python benchmarks/fault_table.py

A server of this machine speaks OpenAI's and Ollama's protocols and spoils its replies as
`tests/faults/catalogue.py` says, for the small or the large model, plain and streamed; each call
may be tried twice. The table says who answered, and how the last call that met the fault stands in
the ledger. It leaves with 1 where a promise of `tests/faults/storm.py` is broken.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.faults.storm import PRICES, Question, storm
from tests.faults.test_every_fault import everything


def answered(q: Question) -> str:
    """Who answered a question, or the error."""
    if q.result is None:
        return type(q.error).__name__
    return f"{q.result.tier}{', degraded' if q.result.degraded else ''}"


def booked(q: Question) -> str:
    """How the last call that met the fault stands in the ledger."""
    entry = [e for e in q.entries if e.tier == q.place and e.model][-1]
    cost = "cost unknown" if entry.cost_usd is None else "cost known" if entry.cost_usd else "$0"
    return f"{entry.outcome}, {cost}"


def main() -> None:
    """Ask and print."""
    logging.getLogger("cascade").setLevel(logging.CRITICAL)
    began, questions = time.perf_counter(), everything()
    with tempfile.TemporaryDirectory() as folder:
        problems = storm(questions, Path(folder))
    print(f"{'fault':<40}{'small fails':<32}{'large fails':<26}entry")
    for name, group in groupby(questions, lambda q: q.fault.name if q.fault else ""):
        met = list(group)
        ends = [
            " or ".join(dict.fromkeys(answered(q) for q in met if q.place == tier))
            for tier in PRICES
        ]
        entries = " / ".join(dict.fromkeys(booked(q) for q in met))
        print(f"{name:<40}{ends[0]:<32}{ends[1]:<26}{entries}")
    calls = sum(len(q.calls) for q in questions)
    print(
        f"\n{len(questions)} questions, {calls} calls, "
        f"{time.perf_counter() - began:.0f} s, problems: {dict(problems) or 'none'}"
    )
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
