"""Runs the code blocks of a document, in order and in one namespace, like a notebook.

A comment on the line above a ```python block says how it runs:

    (nothing)                   as it is; a request to a real model is an error
    <!-- run: fakes -->         every model string is answered by a scripted model
    <!-- run: live -->          with the real embedded model, in live tests

`<!-- output -->` above a ```text block: it is what the ```python block before it prints; `make
docs` writes it. A ```console block shows commands after `$ `; those of `cascade` and `make` are
checked to exist with the options shown.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import dataclasses
import inspect
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

FENCE = re.compile(
    r"(?:^<!-- (?P<marker>run: \w+|output) -->\n\n?)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
LOCAL_PROVIDERS = frozenset({"ollama", "llamacpp"})
MODES = frozenset({"", "fakes", "live"})


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block.

    Attributes:
        line: the line of the document on which the code begins.
        mode: how a python block is run; `output` for the output of the one before.
        start, end: where the code stands in the text of the document.
    """

    language: str
    code: str
    line: int
    mode: str
    start: int
    end: int


def blocks(text: str) -> list[Block]:
    """All fenced blocks of a document."""
    return [
        Block(
            language=match["language"],
            code=match["code"],
            line=text.count("\n", 0, match.start("code")) + 1,
            mode=(match["marker"] or "").removeprefix("run: "),
            start=match.start("code"),
            end=match.end("code"),
        )
        for match in FENCE.finditer(text)
    ]


def run(path: Path) -> list[tuple[Block, str]]:
    """Run the python blocks of a document in an empty folder; each with what it printed.

    Raises:
        Exception: whatever a block raised, with the document's line in the traceback.
        ValueError: a marker is unknown.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    code = [b for b in blocks(path.read_text(encoding="utf-8")) if b.language == "python"]
    with TemporaryDirectory() as folder, contextlib.chdir(folder):
        return [(block, _run_block(path, block, namespace)) for block in code]


def with_output(path: Path) -> str:
    """The document with its `<!-- output -->` blocks as the program prints them now."""
    text = path.read_text(encoding="utf-8")
    found = blocks(text)
    if not any(block.mode == "output" for block in found):
        return text
    printed = {block.start: output for block, output in run(path)}
    latest, pieces, position = "", [], 0
    for block in found:
        if block.mode == "output":
            pieces += [text[position : block.start], latest]
            position = block.end
        latest = printed.get(block.start, latest)
    return "".join([*pieces, text[position:]])


def commands(text: str) -> Iterator[tuple[int, str]]:
    """Commands with their lines: after `$ ` in ```console blocks (`\\` joins lines), and after
    `Example: ` as the program's help shows them. With a [PLACEHOLDER] it is a form, no command.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("Example: "):
            yield number, line.removeprefix("Example: ")
    for block in blocks(text):
        if block.language == "console":
            code = block.code.replace("\\\n", "  ")
            for offset, line in enumerate(code.splitlines()):
                if line.startswith("$ ") and not re.search(r"\[[A-Za-z]+\]", line):
                    yield block.line + offset, line.removeprefix("$ ")


def _run_block(path: Path, block: Block, namespace: dict[str, Any]) -> str:
    if block.mode not in MODES:
        raise ValueError(f"{path}:{block.line - 1}: unknown marker 'run: {block.mode}'")
    code = compile(
        "\n" * (block.line - 1) + block.code,
        str(path),
        "exec",
        flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        dont_inherit=True,
    )
    stdout = io.StringIO()
    with contextlib.ExitStack() as stack:
        if block.mode == "fakes":
            stack.enter_context(_scripted_models())
        stack.enter_context(contextlib.redirect_stdout(stdout))
        waiting = eval(code, namespace)
        if inspect.iscoroutine(waiting):
            asyncio.run(waiting)
    return stdout.getvalue()


@contextlib.contextmanager
def _scripted_models() -> Iterator[None]:
    """Every model string opens a scripted model that is sure of its answer."""
    from cascade.models import Model, open_model  # noqa: PLC0415 - the rest runs without it
    from cascade.testing import ScriptedModel, reply  # noqa: PLC0415

    sure = reply("Canberra", probability=0.95, input_tokens=14, output_tokens=2)
    answer = dataclasses.replace(sure, busy_ms=180.0, latency_ms=210.0)

    def scripted(model: object, **options: Any) -> Model:
        if isinstance(model, str):
            fake = ScriptedModel(lambda _: answer, returns_logprobs=True)
            fake.provider, _, fake.model = model.partition(":")
            fake.local = fake.provider in LOCAL_PROVIDERS
            return fake
        return open_model(model, **options)  # type: ignore[arg-type] # a model that the block made

    with mock.patch("cascade.tiers.open_model", scripted):
        yield
