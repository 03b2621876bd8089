"""The table of examples/README.md, from what the examples say of themselves."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import floors

FOLDER = floors.ROOT / "examples"


def scripts() -> list[Path]:
    """The examples that are run."""
    return [path for path in sorted(FOLDER.glob("*.py")) if not path.name.startswith("_")]


def docstring(path: Path) -> str:
    """What an example says of itself: the docstring, or the first cell of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        return "".join(json.loads(text)["cells"][0]["source"]).removeprefix("# ")
    return ast.get_docstring(ast.parse(text)) or ""


def table() -> str:
    """What is looked for, where it is, what it shows and needs; the quick start first."""
    rows = [_row(path) for path in [*scripts(), *sorted(FOLDER.glob("*.ipynb"))]]
    rows.sort(key=lambda row: ("quickstart" not in row, row.lower()))
    return "\n".join(["| | example | shows | needs |", "|---|---|---|---|", *rows]) + "\n"


def _row(path: Path) -> str:
    first, _, rest = docstring(path).partition("\n")
    called, _, shows = first.partition(": ")
    needs = rest.partition("Needs: ")[2].partition(" Live: ")[0]
    installed = " ".join(re.findall(r"pip install (.*?)(?: and |, |\.\s|\.$|$)", needs)).split()
    named = ", ".join(f"`{word.strip(chr(34))}`" for word in installed if word != "--no-deps")
    return f"| {called} | [{path.name}]({path.name}) | {shows.strip()} | {named} |"


if __name__ == "__main__":
    print(table(), end="")
