"""Code in the documents runs, commands exist, and generated parts are up to date."""

from __future__ import annotations

import ast
import codeop
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import floors
import make_docs
import snippets

README = floors.ROOT / "README.md"
MAKEFILE = floors.ROOT / "Makefile"
DOCUMENTS = make_docs.documents()
COMMANDS = [
    pytest.param(command, id=f"{path.name}:{line}")
    for path in DOCUMENTS
    for line, command in snippets.commands(path.read_text(encoding="utf-8"))
]


def name(path: Path) -> str:
    return path.relative_to(floors.ROOT).as_posix()


def needs_a_model(path: Path) -> bool:
    return any(block.mode == "live" for block in snippets.blocks(path.read_text(encoding="utf-8")))


def python_documents(*, live: bool) -> list[Path]:
    return [
        path
        for path in DOCUMENTS
        if "```python\n" in path.read_text(encoding="utf-8") and needs_a_model(path) == live
    ]


@pytest.mark.parametrize("path", python_documents(live=False), ids=name)
def test_the_code_of_a_document_runs(path: Path) -> None:
    snippets.run(path)


@pytest.mark.live
@pytest.mark.parametrize("path", python_documents(live=True), ids=name)
def test_the_code_of_a_document_runs_with_the_embedded_model(path: Path) -> None:
    snippets.run(path)


def test_the_readme_shows_code() -> None:
    assert README in python_documents(live=True) + python_documents(live=False)


def test_the_first_two_commands_of_the_readme_are_make_demo_and_make_test() -> None:
    commands = [command for _, command in snippets.commands(README.read_text(encoding="utf-8"))]
    made = [command.partition("#")[0].strip() for command in commands if "make " in command]
    assert made[:2] == ["make demo", "make test"]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (floors.ROOT / ".ci" / "run").read_text()
    assert re.search(r"^run_tests\(\) \{\n    make test && return$", script, re.MULTILINE)
    assert re.search(r'^stage "tests" run_tests$', script, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_a_document_exists(command: str) -> None:
    program, *arguments = shlex.split(command, comments=True)
    if program == "make":
        targets = re.findall(r"^(\w+):", MAKEFILE.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(arguments[:1]) <= set(targets)
    elif program == "cascade":
        from cascade.cli import app  # noqa: PLC0415 - the other tests here need no program

        stop = next((n for n, word in enumerate(arguments) if word in "|>&&;"), len(arguments))
        result = CliRunner().invoke(app, [*arguments[:stop], "--help"])
        assert result.exit_code == 0, result.output
    else:
        assert program in {
            "git",
            "pip",
            "uv",
            "cd",
            "ollama",
            "curl",
            "python",
            "python3",
            "export",
            "mkdir",
            "scripts/setup.sh",
            ".venv/bin/cascade",
        }


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_the_generated_parts_of_a_document_are_current(path: Path) -> None:
    if path.exists() and needs_a_model(path):
        pytest.skip("its output is compared in the live test")
    assert_current(path)


@pytest.mark.live
@pytest.mark.parametrize("path", python_documents(live=True), ids=name)
def test_the_output_of_a_document_is_what_the_model_says_now(path: Path) -> None:
    assert_current(path)


def assert_current(path: Path) -> None:
    assert path.exists(), f"{name(path)} is missing: make docs writes it"
    text = path.read_text(encoding="utf-8")
    assert make_docs.same(make_docs.current(path), text), f"{name(path)} is outdated: run make docs"


TUTORIAL = floors.ROOT / "docs" / "tutorial.md"
SHOWS_NOTHING = {"print", "save", "aclose"}


def test_the_tutorial_can_be_typed_into_a_python_that_knows_await() -> None:
    """As `python -m asyncio` reads it: line by line, and what an expression is worth is shown."""
    typed = codeop.CommandCompiler()
    typed.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    for block in snippets.blocks(TUTORIAL.read_text(encoding="utf-8")):
        if block.language != "python":
            continue
        lines: list[str] = []
        for line in [*block.code.splitlines(), ""]:
            lines.append(line)
            if typed("\n".join(lines)) is not None:
                lines.clear()
        assert lines == [], f"line {block.line}: an empty line ends a block"
        for shown in (n.value for n in ast.walk(ast.parse(block.code)) if isinstance(n, ast.Expr)):
            call = shown.value if isinstance(shown, ast.Await) else shown
            assert isinstance(call, ast.Call)
            assert ast.unparse(call.func).rpartition(".")[2] in SHOWS_NOTHING, ast.unparse(call)


SERVED = [
    pytest.param(block.code, id=f"{path.name}:{block.line}")
    for path in DOCUMENTS
    for block in snippets.blocks(path.read_text(encoding="utf-8"))
    if block.language == "yaml" and "tiers:" in block.code
]


@pytest.mark.parametrize("text", SERVED)
def test_a_configuration_of_a_document_is_one(text: str, tmp_path: Path) -> None:
    from cascade.service.reading import read_settings  # noqa: PLC0415 - as above

    file = tmp_path / "cascade.yaml"
    file.write_text(text)
    settings = read_settings(str(file), {"OPENAI_API_KEY": "x"})
    assert settings.config.cascades


DOCUMENT = """
```python
x = 2
```

<!-- run: fakes -->
```python
import asyncio
await asyncio.sleep(0)
print(x + 1)
```

<!-- output -->
```text
old
```

```console
$ cascade ask "Who?" \\
    --json
an answer
$ make test
```
"""


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "document.md"
    path.write_text(DOCUMENT)
    return path


def test_blocks_share_a_namespace_and_may_await(document: Path) -> None:
    assert [printed for _, printed in snippets.run(document)] == ["", "3\n"]


def test_the_output_block_gets_what_the_code_prints(document: Path) -> None:
    assert snippets.with_output(document) == DOCUMENT.replace("old", "3")


def test_commands_are_joined_over_lines() -> None:
    found = [" ".join(command.split()) for _, command in snippets.commands(DOCUMENT)]
    assert found == ['cascade ask "Who?" --json', "make test"]


def test_a_failing_block_names_the_line_of_the_document(tmp_path: Path) -> None:
    path = tmp_path / "wrong.md"
    path.write_text("Text.\n\n```python\nx = 1\nraise KeyError(x)\n```\n")
    with pytest.raises(KeyError) as raised:
        snippets.run(path)
    assert raised.traceback[-1].lineno + 1 == 5


def test_an_unknown_marker_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "wrong.md"
    path.write_text("<!-- run: never -->\n```python\nx = 1\n```\n")
    with pytest.raises(ValueError, match="run: never"):
        snippets.run(path)


def test_durations_may_differ_but_nothing_else() -> None:
    assert make_docs.same("took 12.5 ms, $0.01", "took 7 ms, $0.01")
    assert not make_docs.same("took 12.5 ms, $0.01", "took 12.5 ms, $0.02")
