"""CPU that `import cascade` takes: the median over fresh interpreters.

    python benchmarks/import_time.py [--runs 15] [--json]

That of an empty interpreter is measured in turns with it and taken off; on an idle machine it is
the wall time. Bytecode is there, as where a package is installed. `modules` are those of the
package that are loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

STATEMENTS = (
    "import cascade",
    "from cascade import Cascade",
    "from cascade import build_graph",
    "from langchain_core import messages",
)
COUNT = "import sys; print(sum(name.split('.')[0] == 'cascade' for name in sys.modules))"


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
    """CPU of a fresh interpreter that runs the statement."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return 1000 * (user + system)


def measure(runs: int) -> dict[str, dict[str, float]]:
    """Median, quartiles and modules per statement."""
    taken: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
    with with_bytecode():
        for statement in STATEMENTS:
            milliseconds(statement)  # bytecode and the disk's cache are warm afterwards
        for _ in range(runs):
            empty = milliseconds("pass")
            for statement, times in taken.items():
                times.append(milliseconds(statement) - empty)
    figures = {}
    for statement, times in taken.items():
        low, median, high = statistics.quantiles(times, n=4)
        command = [sys.executable, "-c", f"{statement}; {COUNT}"]
        modules = int(subprocess.run(command, check=True, capture_output=True).stdout)
        figures[statement] = {"ms": median, "q1_ms": low, "q3_ms": high, "modules": modules}
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    figures = measure(given.runs)
    if given.json:
        print(json.dumps({"benchmark": "import_time", "runs": given.runs, **figures}))
        return
    for name, row in figures.items():
        quartiles = f"({row['q1_ms']:.0f} to {row['q3_ms']:.0f})"
        print(f"{name:<36}{row['ms']:8.1f} ms {quartiles:<16}{row['modules']:4.0f} modules")


if __name__ == "__main__":
    main()
