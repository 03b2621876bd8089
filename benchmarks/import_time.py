"""How long `import cascade` takes: the median over fresh interpreters.

    python benchmarks/import_time.py [--runs 15] [--json]

The time of an empty interpreter is measured the same way, in turns, and taken off. Bytecode is
there, as it is where a package is installed, also where this environment writes none.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

STATEMENTS = {
    "import cascade": "import cascade",
    "from cascade import Cascade": "from cascade import Cascade",
}


@contextmanager
def with_bytecode() -> Iterator[None]:
    """Meanwhile new processes write bytecode, to a place of its own, and find it there."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = folder
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def milliseconds(statement: str) -> float:
    """Wall time of a fresh interpreter that runs the statement."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return (time.perf_counter() - began) * 1000


def measure(runs: int) -> dict[str, dict[str, float]]:
    """Median and quartiles per statement, without the interpreter's own start."""
    for statement in STATEMENTS.values():
        milliseconds(statement)  # bytecode and the disk's cache are warm afterwards
    taken: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(runs):
        empty = milliseconds("pass")
        for name, statement in STATEMENTS.items():
            taken[name].append(milliseconds(statement) - empty)
    figures = {}
    for name, values in taken.items():
        low, median, high = statistics.quantiles(values, n=4)
        figures[name] = {
            "median_ms": round(median, 1),
            "q1_ms": round(low, 1),
            "q3_ms": round(high, 1),
        }
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with with_bytecode():
        figures = measure(arguments.runs)
    if arguments.json:
        print(json.dumps({"benchmark": "import_time", "runs": arguments.runs, **figures}))
        return
    for name, row in figures.items():
        print(f"{name:<30} {row['median_ms']:7.1f} ms   ({row['q1_ms']} to {row['q3_ms']})")


if __name__ == "__main__":
    main()
