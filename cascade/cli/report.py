"""`cascade report`: what a ledger says was spent and saved."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import typer

from cascade.cli import options
from cascade.cli.console import busy, show, write_pages
from cascade.cli.judge import need_numbers
from cascade.errors import ConfigurationError

EXAMPLE = "Example: cascade report sqlite:///ledger.db --since 7d --tag team=search --html r.html"


def report(
    ledger: Annotated[str, typer.Argument(help="Address: sqlite:///ledger.db, postgresql://…")],
    *,
    since: Annotated[
        str | None, typer.Option(help="From then on: a date, or so long ago: 24h, 7d.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Before then.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="Only runs with this tag, name=value.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Break down by this tag as well.")] = None,
    compare: Annotated[
        bool, typer.Option(help="Compare with the period of the same length before.")
    ] = False,
    figures: options.Figures = None,
    html: options.Html = None,
    json: options.Json = False,
) -> None:
    """Say what was spent, what was saved for certain, and what that cost in quality."""
    need_numbers()
    from cascade.evaluation.render import to_json, to_text  # noqa: PLC0415 - heavy

    selection = {"since": _time(since), "until": _time(until), "tags": options.to_tags(tag)}
    with busy("reading the ledger"):
        made = asyncio.run(_make(ledger, selection, by, compare))
    write_pages(made.document, html, figures)
    show(to_json(made) if json else to_text(made.document))


async def _make(url: str, selection: dict[str, Any], by: str | None, compare: bool) -> Any:
    from cascade.evaluation.report import TABLES, make_report  # noqa: PLC0415 - heavy
    from cascade.ledger import Selection, open_store  # noqa: PLC0415

    async with open_store(url, read_only=True) as store:
        asked = () if by is None else (by if by in TABLES else f"tag:{by}",)
        tables = (*TABLES, *asked)
        return await make_report(store, Selection(**selection), by=tables, compare=compare)


_UNITS: dict[str, Literal["minutes", "hours", "days"]] = {
    "m": "minutes",
    "h": "hours",
    "d": "days",
}


def _time(given: str | None) -> datetime | None:
    if given is None:
        return None
    unit = _UNITS.get(given[-1:])
    if unit is not None and given[:-1].isdigit():
        return datetime.now(UTC) - timedelta(**{unit: int(given[:-1])})
    try:
        found = datetime.fromisoformat(given)
    except ValueError:
        raise ConfigurationError(
            f"{given!r} is no time: write a date (2026-11-28), or so long ago (24h, 7d)."
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
