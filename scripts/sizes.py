"""Sizes of the house beside their aims: `python scripts/sizes.py`.

Lines and files by room, options, fields, what one escalated question enters, what the import loads,
imports of private names of other packages.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import floors
from floors import FLOORS, ROOT

sys.path.insert(0, str(ROOT))

KERNEL = (
    "run.py",
    "calling.py",
    "kernel.py",
    "graph.py",
    "_portal.py",
)
HOLDING = (
    "api.py",
    "state.py",
    "errors.py",
    "events.py",
    "result.py",
    "tiers.py",
)
SHARED = ("questions.py", "_numbers.py", "_lazy.py", "_version.py", "__init__.py")

AIMS: dict[str, int] = {
    "kernel with agents": 2_500,
    "api, state, errors, events, result, tiers": 1_000,
    "middleware": 3_000,
    "models": 2_100,
    "confidence, policies": 2_700,
    "ledger": 2_100,
    "evaluation": 3_700,
    "integrations": 1_300,
    "service": 3_400,
    "jobs": 1_300,
    "teaching": 1_300,
    "cli": 1_500,
    "testing": 700,
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure beside its aim."""

    what: str
    is_now: float
    aim: float | None

    def __str__(self) -> str:
        aim = "" if self.aim is None else f"{self.aim:>9,.0f}"
        missed = self.aim is not None and self.is_now > self.aim
        return f"{self.what:<58}{self.is_now:>9,.0f}{aim:>9}{'  over' if missed else ''}"


def files(*places: str) -> list[Path]:
    """The Python files of some places, each once; `cascade/agents` is a link to `agents`."""
    found = []
    for place in places:
        path = ROOT / place
        found += [path] if path.is_file() else sorted(path.rglob("*.py"))
    return [path for path in found if "cascade/agents/" not in path.as_posix()]


def lines(paths: list[Path]) -> int:
    """Lines of some files."""
    return sum(len(path.read_text().splitlines()) for path in paths)


def rooms() -> dict[str, list[Path]]:
    """The files of each room."""
    made = {
        "kernel with agents": files("agents", *(f"cascade/{name}" for name in KERNEL)),
        "api, state, errors, events, result, tiers": files(*(f"cascade/{n}" for n in HOLDING)),
        "questions, numbers, names that load on first use": files(
            *(f"cascade/{n}" for n in SHARED)
        ),
        "confidence, policies": files("cascade/confidence", "cascade/policies"),
        "evaluation": files("cascade/evaluation", "cascade/calibrate.py"),
        "integrations": files("cascade/integrations"),
    }
    for name in AIMS:
        if name not in made:
            made[name] = files(f"cascade/{name}")
    return made


def private_imports() -> Iterator[str]:
    """Imports of private names or modules of other packages."""
    for path in files("cascade", "agents"):
        for node, _ in floors.statements(floors.tree(path)):
            for name in floors.targets(node, "cascade"):
                parts = name.split(".")
                ours = parts[0] in ("cascade", "__future__")
                if not ours and any(p.startswith("_") and not p.startswith("__") for p in parts):
                    yield f"{path.relative_to(ROOT)}: {name}"


def entered() -> tuple[int, int, int]:
    """Functions entered, files visited and moves between files of one escalated question."""
    from cascade import Cascade, Tier  # noqa: PLC0415
    from cascade.ledger.prices import Price  # noqa: PLC0415
    from cascade.testing import ScriptedModel, reply  # noqa: PLC0415

    price = Price(input=1, output=2)
    small = Tier(ScriptedModel([reply("Sydney", probability=0.3)] * 3), price=price)
    large = Tier(ScriptedModel([reply("Canberra")] * 3), price=price)
    cascade = Cascade(small, large)
    house = tuple(f"{ROOT / place}/" for place in ("cascade", "agents"))
    seen: list[str] = []

    def watch(frame: Any, event: str, arg: object) -> None:
        del arg
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(house) and "/testing/" not in name:
            seen.append(name)

    async def ask() -> None:
        await cascade.ainvoke("What is the capital of Australia?")
        sys.setprofile(watch)
        try:
            await cascade.ainvoke("What is the capital of Australia?")
        finally:
            sys.setprofile(None)

    asyncio.run(ask())
    moves = sum(one != other for one, other in itertools.pairwise(seen))
    return len(seen), len(set(seen)), moves


def loaded() -> tuple[int, int]:
    """Modules of ours that `from cascade import Cascade` loads, and their lines."""
    code = (
        "import sys\nfrom cascade import Cascade\n"
        "print(*[m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'cascade'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [Path(name) for name in done.stdout.split()]
    return len(paths), sum(len(path.read_text().splitlines()) for path in paths)


def measure() -> list[Row]:
    """All figures."""
    from cascade import Cascade, LedgerEntry, build_graph  # noqa: PLC0415

    rows = [Row(f"lines: {name}", lines(paths), AIMS.get(name)) for name, paths in rooms().items()]
    every = files("cascade", "agents")
    functions, places, moves = entered()
    modules, module_lines = loaded()
    options = len(inspect.signature(Cascade.__init__).parameters) - 1
    return [
        *rows,
        Row("lines of cascade/ and agents/", lines(every), 25_000),
        Row("files of cascade/ and agents/", len(every), 150),
        Row("lines of tests/", lines(files("tests")), 25_000),
        Row("options of Cascade", options, 20),
        Row("options of build_graph", len(inspect.signature(build_graph).parameters), 4),
        Row("fields of LedgerEntry", len(LedgerEntry.model_fields), 24),
        Row("one escalated question: functions entered", functions, 250),
        Row("one escalated question: files visited", places, 25),
        Row("one escalated question: moves between files", moves, 150),
        Row("modules that `from cascade import Cascade` loads", modules, 60),
        Row("their lines", module_lines, 7_500),
        Row("imports of private names of others", len(list(private_imports())), 0),
        Row("files in agents/ but for __init__", len(files("agents")) - 1, 7),
        Row("rooms of the house", sum(map(len, FLOORS)), 20),
        Row("its floors", len(FLOORS), 9),
        Row("pages of docs", len(list((ROOT / "docs").rglob("*.md"))), 30),
    ]


def main() -> None:
    """Print the table."""
    print(f"{'':<58}{'is':>9}{'aim':>9}")
    for row in measure():
        print(row)
    for found in private_imports():
        print(found)


if __name__ == "__main__":
    main()
