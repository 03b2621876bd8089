"""Reference of the command line and the configuration, made from the code.

`python scripts/reference.py` writes docs/cli.md, and the part of docs/service.md between its marks;
with `--check` it fails where they are stale.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cascade.cli.program import app  # noqa: E402
from cascade.service import config  # noqa: E402

BEGIN = """\
# Command line

Every command has `--help`, and `--json` for one document that machines can read. Exit codes: 0
done, 1 failed, 2 wrong usage, 130 interrupted. An error is one line with the wrong value, and a
line `next:` with what to type. Ctrl-C says what was spent or kept; where work was recorded, the
same command goes on. `CASCADE_SMALL` and `CASCADE_LARGE` name the models once for all.
`make reference` writes this page.
"""

GUIDES = {
    "ask": "tutorial.md",
    "batch": "batch.md",
    "calibrate": "calibration.md",
    "demo": "evaluation.md#the-demo",
    "doctor": "models.md",
    "evaluate": "evaluation.md#from-recorded-answers",
    "keys": "service.md#keys-and-budgets",
    "lessons": "teaching.md",
    "plan": "evaluation.md#from-prices-alone",
    "report": "ledger.md#the-report",
    "serve": "service.md",
    "teach": "teaching.md#training",
    "try": "evaluation.md#from-labelled-rows",
}
"""The guide of each command."""

PARTS: dict[str, type[BaseModel]] = {
    "": config.ServiceConfig,
    "listen.": config.ListenConfig,
    "cascades.NAME.": config.CascadeConfig,
    "cascades.NAME.audits.": config.AuditConfig,
    "TIER.": config.TierConfig,
    "log.": config.LogConfig,
}
"""Parts of the configuration, each with what stands before its keys."""

MARKS = ("<!-- configuration -->\n", "<!-- /configuration -->")


def usually(default: object) -> str:
    """What a default adds to a meaning."""
    if isinstance(default, BaseModel) or default in (None, False, "", (), PydanticUndefined):
        return ""
    shown = ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)
    return f" By default `{shown.lower() if default is True else shown}`."


# --- the command line


def commands() -> Iterator[tuple[str, Any]]:
    """All commands with what is typed for them; those of a group after the group."""
    root: Any = typer.main.get_command(app)
    for name in root.list_commands(None):
        command = root.get_command(None, name)
        yield name, command
        yield from (
            (f"{name} {own}", each) for own, each in vars(command).get("commands", {}).items()
        )


def options(command: Any) -> dict[str | None, list[str]]:
    """Options and arguments with their meaning, by the panel of the help that they stand in."""
    found: dict[str | None, list[str]] = {}
    for each in command.params:
        argument = each.param_type_name == "argument"
        name = each.name.upper() if argument else ", ".join(each.opts)
        choices = [
            f"`{x}`" for x in get_args(each.type_descriptor.annotation) if isinstance(x, str)
        ]
        said = f"{each.help or ''}{usually(each.default)}"
        said += f" One of {', '.join(choices)}." * bool(choices)
        said += " Required." * (each.required and not argument)
        if name != "--json":
            found.setdefault(each.rich_help_panel, []).append(f"- `{name}`: {said}")
    return found


def command_line() -> str:
    """The page of the command line: options that commands share stand at its end."""
    every = [(name, command, options(command)) for name, command in commands()]
    panels = [panel for *_, found in every for panel in found if panel is not None]
    shared = {p: found[p] for *_, found in every for p in found if panels.count(p or "") > 1}
    lines = [BEGIN]
    for name, command, found in every:
        guide = f" [More]({GUIDES[name]})." if name in GUIDES else ""
        about = " ".join(command.help.split())
        lines += [f"##{'#' * name.count(' ')} cascade {name}", "", f"{about}{guide}", ""]
        if example := (command.epilog or "").removeprefix("Example: "):
            lines += ["```console", f"$ {example}", "```", ""]
        lines += [line for panel, own in found.items() if panel not in shared for line in own]
        if others := [f"[{panel}](#{slug(panel)})" for panel in found if panel and panel in shared]:
            lines.append(f"- {', '.join(others)}")
        lines += [""] * bool(found)
    for panel, own in shared.items():
        lines += [f"## {panel}", "", *own, ""]
    return "\n".join(lines).rstrip() + "\n"


def slug(head: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-")


# --- the configuration


def configuration() -> str:
    """The table of the configuration's keys."""
    rows = [
        f"| `{before}{name}` | {' '.join(str(key.description).split())}{usually(key.default)} |"
        for before, part in PARTS.items()
        for name, key in part.model_fields.items()
    ]
    return "\n".join(["| key | meaning |", "|---|---|", *rows])


def pages() -> dict[Path, str]:
    """The pages as they have to be."""
    service = ROOT / "docs" / "service.md"
    begin, end = MARKS
    before, _, rest = service.read_text(encoding="utf-8").partition(begin)
    text = f"{before}{begin}{configuration()}\n{end}{rest.partition(end)[2]}"
    return {ROOT / "docs" / "cli.md": command_line(), service: text}


def main() -> int:
    """Write the pages, or say which are stale."""
    stale = {p: text for p, text in pages().items() if p.read_text(encoding="utf-8") != text}
    for path, text in stale.items():
        if "--check" in sys.argv:
            print(f"{path.relative_to(ROOT)} is stale: `make reference` writes it")
        else:
            path.write_text(text, encoding="utf-8")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
