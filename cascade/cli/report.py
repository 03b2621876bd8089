"""`cascade report`: what a ledger says was saved, how sure that is, and whether it pays."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cascade._masking import mask_keys
from cascade.cli.completing import TABLES as BY
from cascade.cli.completing import ledgers, one_of
from cascade.cli.console import busy, err, out, reports_errors, write_json
from cascade.errors import ConfigurationError

if TYPE_CHECKING:
    from cascade.ledger.store import Selection
    from cascade.report import Report

EXAMPLE = (
    "Example: cascade report sqlite:///ledger.db --days 30 --by node --by tag:team --html r.html"
)
COLOURS = {"saves": "bold green", "loses": "bold red", "cannot tell yet": "bold yellow"}
TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]


@reports_errors
def report(
    ledger: Annotated[
        str, typer.Argument(help="sqlite:///ledger.db or postgresql://…", autocompletion=ledgers)
    ],
    *,
    since: Annotated[
        datetime | None, typer.Option(formats=TIMES, help="From this time on, in UTC.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=TIMES, help="Before this time, in UTC.")
    ] = None,
    days: Annotated[
        float | None, typer.Option(min=0.001, help="The last so many days, instead of --since.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only with this tag; repeatable.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="Tables: node, tier, model, day, agent, tag:KEY; repeatable. All but tag:KEY if "
            "not given.",
            autocompletion=one_of(BY),
        ),
    ] = None,
    precision: Annotated[
        float, typer.Option(help="Wanted half width of the quality loss: how many audits it takes.")
    ] = 0.02,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file.")] = None,
) -> None:
    """Say what was saved, verified by audits, at which quality, and whether the cascade pays."""
    from cascade.report import TABLES  # noqa: PLC0415 - heavy, and needs an extra

    selection = selection_of(since, until, days, tag or [])
    if html is not None and not html.parent.is_dir():
        raise ConfigurationError(f"{html} cannot be written: there is no folder {html.parent}.")
    with busy("reading the ledger"):
        found = asyncio.run(_make(ledger, selection, by or list(TABLES), precision))
    if html is not None:
        write_page(html, found.html())
    if json:
        write_json(found.model_dump_json(indent=2))
        return
    verdict, rest = found.text().split("\n", 1)
    out.print(verdict, style=COLOURS[found.verdict], markup=False)
    out.print(rest, markup=False)
    if html is not None:
        err.print(f"written: {html}", markup=False)


async def _make(ledger: str, selection: Selection, by: list[str], precision: float) -> Report:
    from cascade.ledger.store import open_store  # noqa: PLC0415 - heavy
    from cascade.report import make_report  # noqa: PLC0415 - heavy

    must_exist(ledger)
    async with open_store(ledger, read_only=True) as store:
        return await make_report(store, selection, by=by, precision=precision)


def must_exist(ledger: str, what: str = "ledger", schema: str = "ledger_schema") -> None:
    """Refuse a file that is no ledger: reading it would make an empty one of it.

    Args:
        ledger: its address.
        what: what it should be, if not a ledger.
        schema: the table by which that is known.

    Raises:
        ConfigurationError: there is no such file, or there is something else in it.
    """
    scheme, _, rest = ledger.partition("://")
    path = rest.partition("?")[0].removeprefix("/")
    if scheme.partition("+")[0] != "sqlite" or not path:
        return
    if not Path(path).exists():
        shown = path.rpartition("@")[2]  # some write a password there, which SQLite has not
        raise ConfigurationError(f"{mask_keys(ledger)}: there is no file {shown}.")
    with closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)) as file:
        try:
            found = file.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (schema,))
            is_there = found.fetchone() is not None
        except sqlite3.OperationalError:
            return  # locked, or its folder cannot be written: the store tells which
        except sqlite3.DatabaseError as error:
            raise ConfigurationError(f"{ledger}: {path} is no SQLite file: {error}.") from error
    if not is_there:
        raise ConfigurationError(f"{ledger}: there is no {what} in {path}.")


def selection_of(
    since: datetime | None, until: datetime | None, days: float | None, tags: list[str]
) -> Selection:
    """The entries that the options of a command mean.

    Raises:
        ConfigurationError: two that exclude each other, or a tag that is none.
    """
    from cascade.ledger.store import Selection  # noqa: PLC0415 - heavy

    if days is not None:
        if since is not None:
            raise ConfigurationError("give --days or --since, not both.")
        since = (until or datetime.now(UTC)) - timedelta(days=days)
    pairs = {}
    for text in tags:
        key, separator, value = text.partition("=")
        if not (key and separator):
            raise ConfigurationError(f"--tag {text!r}: write KEY=VALUE, for instance team=search.")
        pairs[key] = value
    return Selection(since=since, until=until, tags=pairs)


def write_page(path: Path, page: str) -> None:
    """Write a page.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}.") from error
