"""Every figure of the documents has a command that can be typed, and a line in docs/evidence.md."""

from __future__ import annotations

import ast
import datetime
import re
import shlex
from functools import cache

import pytest

import floors
import make_docs
import snippets

EVIDENCE = floors.ROOT / "docs" / "evidence.md"
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
TYPED = re.compile(r"`(python\s+benchmarks/[^`]+)`")
ROW = re.compile(
    r"^\| \[(?P<claim>[^]]+)\]\((?P<page>[\w.]+)(?:#[\w-]+)?\)[^|]* \| `(?P<command>[^`]+)` "
    r"\| (?P<date>[\d-]+) \| (?P<machine>[^|]+) \|$",
    re.MULTILINE,
)
BENCHMARKS = sorted(
    path.relative_to(floors.ROOT).as_posix()
    for path in (floors.ROOT / "benchmarks").glob("*.py")
    if not path.name.startswith("_")
)


def commands(text: str) -> list[str]:
    """The commands of a document that run a benchmark: in ```console blocks, and within a line."""
    found = [command for _, command in snippets.commands(text) if "benchmarks/" in command]
    found += TYPED.findall(FENCED.sub("", text))
    return [" ".join(command.split()) for command in found]


@cache
def typed() -> dict[str, list[str]]:
    """The commands of each document but the list of evidence, by its path."""
    return {
        path.relative_to(floors.ROOT).as_posix(): commands(path.read_text(encoding="utf-8"))
        for path in make_docs.documents()
        if path != EVIDENCE
    }


def rows() -> list[re.Match[str]]:
    return list(ROW.finditer(EVIDENCE.read_text(encoding="utf-8")))


def names(call: ast.Call, loops: dict[str, list[str]]) -> list[str]:
    """The options that an `add_argument` adds; in a loop, one for each of its words."""
    first = call.args[0]
    if isinstance(first, ast.Constant):
        return [str(word.value) for word in call.args if isinstance(word, ast.Constant)]
    assert isinstance(first, ast.JoinedStr)
    (variable,) = [part.value for part in first.values if isinstance(part, ast.FormattedValue)]
    assert isinstance(variable, ast.Name)
    return [f"--{word}" for word in loops[variable.id]]


@cache
def options(program: str) -> dict[str, bool]:
    """The options of a benchmark as its source adds them, and whether each has to be given."""
    tree = ast.parse((floors.ROOT / program).read_text(encoding="utf-8"))
    loops = {
        loop.target.id: [str(word.value) for word in loop.iter.elts if type(word) is ast.Constant]
        for loop in ast.walk(tree)
        if isinstance(loop, ast.For)
        and isinstance(loop.target, ast.Name)
        and isinstance(loop.iter, ast.Tuple)
    }
    return {
        name: any(word.arg == "required" for word in call.keywords)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "add_argument"
        for name in names(call, loops)
    }


def wrong(command: str) -> str:
    """Why a command cannot be typed as it stands; empty where it can."""
    _, program, *arguments = shlex.split(command)
    if program not in BENCHMARKS:
        return f"{program} is not there"
    known = options(program)
    given = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    if unknown := given - known.keys():
        return f"{program} has no {', '.join(sorted(unknown))}"
    if arguments and not known:
        return f"{program} takes nothing"
    needed = {name for name, required in known.items() if required}
    if len(needed) == 1 and needed - given:
        return f"{program} needs {', '.join(needed)}"
    return ""


@pytest.mark.parametrize("program", BENCHMARKS)
def test_every_benchmark_is_on_a_page_with_its_command(program: str) -> None:
    assert [
        page for page, found in typed().items() if any(f" {program}" in line for line in found)
    ], "a figure that nobody reads: name it on the page that it is for"


def test_every_command_that_runs_a_benchmark_can_be_typed() -> None:
    told = {f"{page}: {command}": wrong(command) for page in typed() for command in typed()[page]}
    assert len(told) > len(BENCHMARKS)
    assert {command: why for command, why in told.items() if why} == {}


def test_every_row_of_the_evidence_has_its_command_on_its_page() -> None:
    lines = re.findall(r"^\| \[.*", EVIDENCE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows()) == len(lines), "a row of another form"
    for row in rows():
        page = floors.ROOT / "docs" / row["page"]
        assert page.exists(), row["page"]
        text = page.read_text(encoding="utf-8").replace("\\\n", "")
        assert row["command"] in " ".join(text.split()), row["command"]
        datetime.date.fromisoformat(row["date"])


@pytest.mark.parametrize("program", BENCHMARKS)
def test_every_benchmark_has_its_row_in_the_evidence(program: str) -> None:
    assert any(f" {program}" in row["command"] for row in rows()), f"{program}: add a row"


def test_every_test_that_a_document_names_is_there() -> None:
    named = re.compile(r"\b(tests/[\w/]+\.py)(?:::(test_\w+))?")
    for path in [*make_docs.documents(), floors.ROOT / "SECURITY.md"]:
        for file, test in named.findall(path.read_text(encoding="utf-8")):
            there = floors.ROOT / file
            assert there.exists(), f"{path.name} names {file}"
            assert f"def {test}(" in there.read_text(encoding="utf-8") or not test, test


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("python benchmarks/gone.py", "is not there"),
        ("python benchmarks/knapsack.py --date FOLDER", "has no --date"),
        ("python benchmarks/reuse.py", "needs --out"),
        ("python benchmarks/drift_cost.py --json", "has no --json"),
        ("python benchmarks/drift_cost.py quick", "takes nothing"),
        ("python benchmarks/decision_quality.py --fit FOLDER --test FOLDER", ""),
        ("python benchmarks/attacks.py words --data FOLDER", ""),
    ],
)
def test_what_cannot_be_typed_is_told(command: str, why: str) -> None:
    assert why in wrong(command)
    assert bool(wrong(command)) == bool(why)


def test_commands_are_found_in_blocks_and_within_lines() -> None:
    text = "`python benchmarks/a.py\n--x 1`\n\n```console\n$ python benchmarks/b.py \\\n --y\n```\n"
    assert commands(text) == ["python benchmarks/b.py --y", "python benchmarks/a.py --x 1"]
