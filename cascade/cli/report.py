"""`cascade report`: what a ledger says was spent and saved."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated

from typer import Argument, Option

from cascade.cli.console import busy, give
from cascade.cli.options import Page, Text, Texts, need, spread, to_tags, write_page
from cascade.errors import ConfigurationError


@spread
def report(
    ledger: Annotated[str, Argument(help="Address: sqlite:///ledger.db, postgresql://…")],
    *,
    since: Annotated[Text, Option(help="From then on: a date, or so long ago: 24h, 7d.")] = None,
    until: Annotated[Text, Option(help="Before then.")] = None,
    tag: Annotated[Texts, Option(help="Only runs with this tag, name=value.")] = None,
    by: Annotated[Text, Option(help="Break down by this tag as well.")] = None,
    compare: Annotated[
        bool, Option(help="Compare with the period of the same length before.")
    ] = False,
    html: Page = None,
) -> None:
    """Say what was spent, what was saved for certain, and what that cost in quality."""
    need("calibrate")
    from cascade.evaluation.render import to_text  # noqa: PLC0415 - heavy
    from cascade.evaluation.report import Report, make_report  # noqa: PLC0415
    from cascade.ledger import Selection, open_store  # noqa: PLC0415

    selection = Selection(since=_time(since), until=_time(until), tags=to_tags(tag))

    async def made() -> Report:
        async with open_store(ledger, read_only=True) as store:
            return await make_report(store, selection, tag=by, compare=compare)

    with busy("reading the ledger"):
        found = asyncio.run(made())
    write_page(html, found.document)
    give(found, to_text(found.document))


_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def _time(given: str | None) -> datetime | None:
    if given is None:
        return None
    unit, count = _UNITS.get(given[-1:]), given[:-1]
    try:
        if unit is not None and count.isdigit():
            found = datetime.now(UTC) - timedelta(**{unit: float(count)})
        else:
            found = datetime.fromisoformat(given)
        if not 1900 <= found.year < 2500:  # it is compared with the period before
            raise ValueError
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{given!r} is no time: write a date (2026-11-28), or so long ago (24h, 7d)."
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
