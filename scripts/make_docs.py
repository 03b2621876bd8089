"""Writes the generated parts and pictures of README.md, examples/README.md and docs/: `make docs`.

    <!-- generated: floors -->          begins a part, by its name in PARTS
    <!-- end of generated -->           ends it

`<!-- output -->` blocks (scripts/snippets.py) are what their code prints.
`python scripts/make_docs.py --check` writes nothing and fails on a difference.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from typing import Any
from unittest import mock

import floors
import manual_parts
import manual_pictures
import sizes
import snippets

ROOT = floors.ROOT
PART = re.compile(
    r"(?P<head><!-- generated: (?P<name>\w+) -->\n).*?(?P<tail><!-- end of generated -->)",
    re.DOTALL,
)
SIZES = re.compile(r"(?<=<!-- generated: sizes -->\n).*?(?=<!-- end of generated -->)", re.DOTALL)
LONGEST_SENTENCE = 300
"""Of a command, in the list of commands: the program cuts it off where a terminal ends."""
MILLISECONDS = re.compile(r"[\d.,]+(?= ?m?s\b)")


def floors_part() -> str:
    """The house, from the imports as they are."""
    return f"```text\n{floors.picture()}\n```\n"


def configuration_part() -> str:
    """The keys of a service's configuration."""
    import service_keys  # noqa: PLC0415 - only this part needs the service

    return service_keys.tables() + "\n"


def examples_part() -> str:
    """The examples, by what people look for."""
    import examples_table  # noqa: PLC0415 - only this part needs them

    return f"\n{examples_table.table()}\n"


def commands_part() -> str:
    """Every command with its options, as the program describes itself."""
    import typer  # noqa: PLC0415 - only this part needs the program
    from typer.cli import get_docs_for_click  # noqa: PLC0415
    from typer.main import get_command  # noqa: PLC0415

    from cascade.cli import app  # noqa: PLC0415

    command = get_command(app)
    context = typer.Context(command, info_name="cascade")
    owner: Any = next(kind for kind in type(command).mro() if "get_short_help_str" in vars(kind))
    whole = partialmethod(owner.get_short_help_str, limit=LONGEST_SENTENCE)
    with mock.patch.object(owner, "get_short_help_str", whole):
        text = get_docs_for_click(obj=command, ctx=context, name="cascade", title="All commands")
    # One level lower than on a page of their own.
    return "\n" + re.sub(r"^#", "##", text.strip(), flags=re.MULTILINE) + "\n\n"


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands_part,
    "configuration": configuration_part,
    "examples": examples_part,
    "floors": floors_part,
    "opening": manual_parts.opening,
    "papers": manual_parts.papers_table,
    "peers": manual_parts.peers_table,
    "sizes": lambda: f"\n{sizes.table()}\n\n{sizes.longest()}\n\n",
    "units": lambda: f"\n{floors.guide()}\n\n",
}


def documents() -> list[Path]:
    """The documents that may hold code or generated parts."""
    return [
        path
        for path in [
            ROOT / "README.md",
            ROOT / "examples" / "README.md",
            *sorted((ROOT / "docs").glob("*.md")),
        ]
        if path.exists()
    ]


def current(path: Path) -> str:
    """The document as it should be now."""
    text = snippets.with_output(path)
    return PART.sub(lambda part: part["head"] + PARTS[part["name"]]() + part["tail"], text)


def same(left: str, right: str) -> bool:
    """Whether two versions of a document say the same; durations differ from run to run, and the
    sizes of folders from day to day."""
    settled = {SIZES.sub("", MILLISECONDS.sub("…", text)) for text in (left, right)}
    tables = ("".join(SIZES.findall(text)) for text in (left, right))
    return len(settled) == 1 and sizes.near(*tables)


def main() -> int:
    """Write, or with `--check` compare."""
    logging.getLogger("cascade").addHandler(logging.NullHandler())  # what the pages' code remarks
    outdated = []
    for path in documents():
        now, before = current(path), path.read_text(encoding="utf-8") if path.exists() else ""
        if same(now, before):
            continue
        outdated.append(str(path.relative_to(ROOT)))
        if "--check" not in sys.argv:
            path.write_text(now, encoding="utf-8")
    pictures = manual_pictures.outdated(write="--check" not in sys.argv)
    outdated += [str(path.relative_to(ROOT)) for path in pictures]
    done = "outdated" if "--check" in sys.argv else "written"
    print(f"{done}: {', '.join(outdated)}" if outdated else "all generated parts are up to date")
    return 1 if outdated and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
