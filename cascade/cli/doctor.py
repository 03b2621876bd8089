"""`cascade doctor`: what can be reached from here, and what to do about the rest."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cascade.cli.completing import EMBEDDED, models
from cascade.cli.console import PlainConsole, busy, fail, out, print_json, reports_errors, spending

if TYPE_CHECKING:
    from cascade.cli.checks import Check

EXAMPLE = "Example: cascade doctor --model openai:gpt-5.1 --model ollama:qwen2.5:3b"
PIPED_WIDTH = 160
"""Where nobody says how wide a line may be, a command to copy should stand on one."""
MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "missing": "[red]✗[/]"}


@reports_errors
def doctor(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Also ask this model one word, which may cost a fraction of a cent.",
            autocompletion=models,
        ),
    ] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Look for models, keys, prices and log-probs. Fails when a named model does not work."""
    with spending(), busy("looking around …"):
        checks = asyncio.run(_look(model or []))
    if json:
        print_json(checks)
    else:
        _print(checks)
    wanted = set(model or [])
    answering = [c for c in checks if c.status != "missing" and "answers" in c.found]
    broken = [check for check in checks if check.name in wanted and check.status == "missing"]
    for check in broken:
        fail(f"{check.name} {check.found}: {check.to_do}", 1)
    if not answering:
        first = next((check for check in checks if check.status == "missing"), checks[0])
        fail(f"no model answers yet; for {first.name}: {first.to_do}", 1)


async def _look(models: list[str]) -> list[Check]:
    from cascade.cli import checks as look  # noqa: PLC0415 - heavy, keeps --help fast

    found = [look.check_python()]
    absent = look.check_embedded_installed()
    found += [absent] if absent else await look.check_model(EMBEDDED)
    found += await look.check_ollama()
    found += look.check_keys()
    for spec in models:
        if spec not in {check.name for check in found}:
            found += await look.check_model(spec)
    return found


def _print(checks: list[Check]) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("", "what", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for check in checks:
        table.add_row(
            MARKS[check.status], escape(check.name), escape(check.found), escape(check.to_do)
        )
    wide = PlainConsole(highlight=False, emoji=False, width=PIPED_WIDTH)
    (out if out.is_terminal else wide).print(table)
