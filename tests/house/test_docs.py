"""The code of README.md and docs/ runs, and what they name exists."""

import ast
import asyncio
import contextlib
import dataclasses
import importlib.util
import inspect
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import floors
import reference
from cascade.cli.program import COMMANDS, app
from cascade.models import Model, Request, open_model
from cascade.service import read_config
from cascade.service.config import PromptTurn, Section
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply

ROOT = floors.ROOT
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
TOP = [README, *(ROOT / f"{name}.md" for name in ("CONTRIBUTING", "SECURITY"))]
DOCUMENTS = [*TOP, *PAGES]
MOST_PAGES = 30
LOCAL = ("ollama", "llamacpp")

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")


def blocks(path: Path, language: str) -> list[tuple[int, str]]:
    """Fenced blocks of a language, each with the line on which its code begins."""
    text = path.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, found.start(2)) + 1, found[2])
        for found in FENCE.finditer(text)
        if found[1] == language
    ]


def commands(path: Path) -> Iterator[tuple[int, str]]:
    """Lines after `$ ` of the console blocks; a backslash joins two."""
    for start, code in blocks(path, "console"):
        for offset, line in enumerate(code.replace("\\\n", "  ").splitlines()):
            if line.startswith("$ "):
                yield start + offset, line.removeprefix("$ ")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


WITH_CODE = [path for path in DOCUMENTS if blocks(path, "python")]
TYPED = [pytest.param(c, id=f"{p.name}:{n}") for p in DOCUMENTS for n, c in commands(p)]
SERVED = [
    pytest.param(code, id=f"{path.name}:{line}")
    for path in DOCUMENTS
    for line, code in blocks(path, "yaml")
    if "cascades:" in code
]


def small_answer(request: Request) -> Completion:
    sure = "capital" in request.messages[-1].text
    answer = reply("Canberra" if sure else "Perhaps", probability=0.95 if sure else 0.4)
    return dataclasses.replace(answer, busy_ms=180.0, latency_ms=210.0)


def large_answer(request: Request) -> Completion:
    return reply("Canberra" if "capital" in request.messages[-1].text else "It depends.")


@pytest.fixture
def models_are_scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every model string opens a scripted model, and files go into an empty folder."""

    def scripted(model: Any, **options: Any) -> Model:
        if not isinstance(model, str):
            return open_model(model, **options)
        provider, _, name = model.partition(":")
        local = provider in LOCAL
        fake = ScriptedModel(small_answer if local else large_answer, returns_logprobs=local)
        fake.provider, fake.model, fake.local = provider, name, local
        return fake

    monkeypatch.setattr("cascade.tiers.open_model", scripted)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("models_are_scripted")
@pytest.mark.parametrize("path", WITH_CODE, ids=name_of)
def test_the_code_of_a_document_runs(path: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}

    async def run() -> None:  # one loop for the page, as in a notebook
        for line, code in blocks(path, "python"):
            made = compile(
                "\n" * (line - 1) + code,
                str(path),
                "exec",
                flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
                dont_inherit=True,
            )
            waiting = eval(made, namespace)
            if inspect.iscoroutine(waiting):
                await waiting

    with contextlib.redirect_stdout(None):
        asyncio.run(run())


@pytest.mark.usefixtures("models_are_scripted")
def test_the_code_of_the_readme_prints_what_stands_below_it() -> None:
    def shape(text: str) -> list[list[str]]:  # lengths of time and sums of money differ
        lines = re.sub(r"\$[\d.]+|\d+\.\d\d(?!\d)", "#", text).splitlines()
        return [[word for word in line.split() if "─" not in word] for line in lines]

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(blocks(README, "python")[0][1], {})
    assert shape(printed.getvalue()) == shape(blocks(README, "text")[0][1])


def test_the_readme_begins_with_make_demo_and_make_test() -> None:
    typed = [command.partition("#")[0].strip() for _, command in commands(README)]
    assert typed[:2] == ["make demo", "make test"]
    assert blocks(README, "python")


@pytest.mark.parametrize("command", TYPED)
def test_a_command_of_a_document_exists(command: str) -> None:
    program, *arguments = shlex.split(command, comments=True)
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        assert set(arguments[:1]) <= set(targets)
    elif program in ("python", ".venv/bin/python"):
        module = arguments[1] if arguments[0] == "-m" else ""
        assert importlib.util.find_spec(module) if module else (ROOT / arguments[0]).is_file()
    elif program == "cascade":
        stop = next((n for n, word in enumerate(arguments) if word in ("|", ">", "&&")), None)
        done = CliRunner().invoke(app, [*arguments[:stop], "--help"])
        assert done.exit_code == 0, done.output
        for option in (word for word in arguments[:stop] if word.startswith("--")):
            assert option in re.sub(r"\s+", " ", done.output), f"{option} is no option of it"
    else:
        assert program in {"pip", "ollama", "curl", "docker", "export", "uvicorn"}


def test_the_reference_is_what_the_code_says() -> None:
    stale = [name_of(p) for p, text in reference.pages().items() if p.read_text("utf-8") != text]
    assert stale == [], "stale: `make reference` (python scripts/reference.py) writes them"
    assert set(reference.GUIDES) == set(COMMANDS)
    described = {*reference.PARTS.values(), PromptTurn}
    assert set(Section.__subclasses__()) <= described


@pytest.mark.parametrize("text", SERVED)
def test_a_configuration_of_a_document_is_one(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cascade.yaml"
    file.write_text(text, encoding="utf-8")
    for name, value in {"LEDGER_URL": "sqlite:///l.db", "OLLAMA_URL": "http://o:1"}.items():
        monkeypatch.setenv(name, value)
    assert read_config(file).cascades


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_the_links_of_a_document_lead_somewhere(path: Path) -> None:
    for target, anchor in LINK.findall(path.read_text(encoding="utf-8")):
        leads_to = (path.parent / target).resolve() if target else path
        assert leads_to.exists(), f"{target} does not exist"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", leads_to.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in slugs, f"{target}#{anchor}: there are {sorted(slugs)}"


def test_the_manual_is_short_and_its_index_names_every_page() -> None:
    assert len(PAGES) <= MOST_PAGES
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    named = {target for target, _ in LINK.findall(index)}
    assert {path.name for path in PAGES} - {"index.md"} <= named


def test_a_page_that_the_code_names_exists() -> None:
    for path in floors.modules().values():
        for page in re.findall(r"(?<![\w/])docs/\w+\.md", path.read_text(encoding="utf-8")):
            assert (ROOT / page).is_file(), f"{name_of(path)} names {page}"


def test_nothing_tells_to_install_a_name_that_is_on_no_index() -> None:
    """Anybody may claim it: until it is published, a clone is installed."""
    said = re.compile(r"pip install .{0,3}agent-cascade|agent-cascade\[")
    folders = ("cascade", "agents", "docs", "examples", "deploy")
    paths = [path for name in folders for path in (ROOT / name).rglob("*.*") if path.is_file()]
    paths = [path for path in (*paths, ROOT / "README.md") if path.suffix != ".pyc"]
    texts = {path: path.read_bytes().decode(errors="replace") for path in paths}
    assert [str(path) for path, text in texts.items() if said.search(text)] == []
