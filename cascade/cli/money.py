"""Money before and after: `cascade plan` (from which accept rate a cascade saves, from prices or
recorded costs) and `cascade report` (what a ledger says was spent and saved)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from cascade.cli.console import busy, give
from cascade.cli.options import LargeName, Page, SmallName, spread, to_tags, using, write_page
from cascade.errors import ConfigurationError


def _tokens(typed: str) -> tuple[Decimal, Decimal]:
    with suppress(ValueError, InvalidOperation):
        read, written = map(Decimal, typed.split(","))
        return read, written
    raise ConfigurationError(f"{typed!r}: write two prices with a comma, such as 1.25,10.")


def _time(typed: str) -> datetime:
    unit = {"m": "minutes", "h": "hours", "d": "days"}.get(typed[-1:])
    with suppress(ValueError, OverflowError):
        if unit is not None and typed[:-1].isdigit():
            found = datetime.now(UTC) - timedelta(**{unit: float(typed[:-1])})
        else:
            found = datetime.fromisoformat(typed)
        if 1900 <= found.year < 2500:  # it is compared with the period before
            return found
    raise ConfigurationError(
        f"{typed!r} is no time: write a date (2026-11-28), or so long ago (24h, 7d)."
    )


TokenPrice = Annotated[Any, Option(parser=_tokens, metavar="IN,OUT", help="Dollars per 1M tokens.")]


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """A request: its prices, tokens and seconds."""

    small: SmallName = None
    large: LargeName = None
    small_price: TokenPrice = None
    large_price: TokenPrice = None
    hourly: Annotated[Decimal | None, Option(help="Dollars per hour of small's machine.")] = None
    utilisation: Annotated[Decimal, Option(help="Share of the time it computes.")] = Decimal(1)
    kw: Annotated[Decimal | None, Option(help="Kilowatts that it draws while it computes.")] = None
    kwh_price: Annotated[Decimal | None, Option(help="Dollars per kWh.")] = None
    input_tokens: Annotated[int | None, Option(min=0, help="Tokens of a request.")] = None
    output_tokens: Annotated[int | None, Option(min=0, help="Of the small model's answer.")] = None
    large_output_tokens: Annotated[int | None, Option(min=1, help="Of the large's answer.")] = None
    busy_s: Annotated[Decimal | None, Option(min=0, help="Seconds of computing per draft.")] = None
    check_calls: Annotated[int, Option(min=0, help="Calls of a self-check without log-probs.")] = 0


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Expected use."""

    accept_rate: Annotated[
        Decimal | None, Option("--accept", min=0, max=1, help="Share of drafts accepted.")
    ] = None
    accept_n: Annotated[int | None, Option(min=1, help="Of so many drafts: for intervals.")] = None
    requests: Annotated[Decimal | None, Option(min=0, help="Requests per month.")] = None
    fixed_usd: Annotated[Decimal, Option(min=0, help="Dollars per month: hardware, …")] = Decimal(0)


@spread
def plan(
    recorded: Annotated[Path | None, Argument(help="Recorded answers, for their costs.")] = None,
    *,
    request: RequestOptions,
    expected: Expected,
) -> None:
    """Work out from which accept rate a cascade saves money, how much, or that it never does."""
    from cascade.evaluation import plan as work  # noqa: PLC0415 - heavy, keeps --help fast
    from cascade.evaluation.render import to_text  # noqa: PLC0415

    if expected.accept_n and expected.accept_rate is None:
        raise ConfigurationError("--accept-n says nothing alone: give --accept too.")
    if request.kwh_price and request.kw is None:
        raise ConfigurationError("--kwh-price says nothing alone: give --kw too.")
    if recorded is None:
        costs = _costs(request)
    else:
        with busy(f"reading {recorded}"):
            models, rate = (request.small, request.large), expected.accept_rate is None
            costs = work.recorded(recorded, *models, rate=rate)
        costs["note"] = f"The costs are those of {recorded}."
    found = work.plan(**{**vars(expected), **costs})
    told = {"summary": found.document.sentence, "verdict": found.verdict, **found.figures}
    told |= {name: found.figures[name].value for name in ("cost_ratio", "break_even_accept_rate")}
    give({**told, "from_requests": found.from_requests}, to_text(found.document))


def _costs(request: RequestOptions) -> dict[str, Any]:
    """Dollars of a draft, its check and a large answer, and what they rest on."""
    from cascade.ledger.prices import Price  # noqa: PLC0415 - heavy, keeps --help fast
    from cascade.state import Usage  # noqa: PLC0415

    read, written = request.input_tokens, request.output_tokens
    if read is None or written is None:
        raise ConfigurationError(
            "give --input-tokens and --output-tokens of a request, or a file of recorded answers."
        )
    by_hour = None
    if request.hourly is not None or request.kw is not None:
        power = {"kw": request.kw or 0, "kwh": request.kwh_price or 0}
        hardware = {"hardware_per_hour": request.hourly or 0, "utilisation": request.utilisation}
        by_hour = Price.local(**hardware, **power).per_hour
        if request.busy_s is None:
            raise ConfigurationError("give --busy-s, the seconds that a draft keeps it computing.")
    small = _price("small", request.small, request.small_price, by_hour)
    large = _price("large", request.large, request.large_price, None)

    def usd(price: Any, asked: int, told: int) -> Decimal:
        usage, busy_s = Usage(input_tokens=asked, output_tokens=told), request.busy_s or 0
        return Decimal(price.cost(usage, float(busy_s * 1000)))

    # A check adds some 30 tokens to question and draft, and has room for its one word.
    check = usd(small, read + written + 30, 4)
    return {
        "draft_usd": usd(small, read, written),
        "check_usd": request.check_calls * check,
        "large_usd": usd(large, read, request.large_output_tokens or written),
        "note": f"Prices: {small.source} (small); {large.source} (large).",
    }


def _price(which: str, model: str | None, tokens: Any, by_hour: Decimal | None) -> Any:
    """The price of a model, from what was typed about it."""
    from cascade.ledger.prices import ListPrice, Price, find_pricing  # noqa: PLC0415 - heavy

    if tokens is not None or by_hour is not None:
        read, written = tokens or (None, None)
        return Price(input=read, output=written, per_hour=by_hour)
    provider, _, name = (model or "").partition(":")
    listed = find_pricing(provider, name) if name else None
    if isinstance(listed, ListPrice):
        return listed
    machine = ", or --hourly for a machine of your own" if which == "small" else ""
    raise ConfigurationError(
        f"there is no price of {model or f'the {which} model'}: give --{which} with a list price, "
        f"such as openai:gpt-5.1, --{which}-price IN,OUT{machine}."
    )


@spread
def report(
    ledger: Annotated[str, Argument(help="Address: sqlite:///ledger.db, postgresql://…")],
    *,
    since: Annotated[Any, Option(parser=_time, help="From this date, or 24h, 7d ago.")] = None,
    until: Annotated[Any, Option(parser=_time, help="Before this date, or 24h, 7d ago.")] = None,
    tag: Annotated[list[str] | None, Option(help="Only runs with this tag, name=value.")] = None,
    by: Annotated[str | None, Option(help="Break down by this tag as well.")] = None,
    html: Page = None,
) -> None:
    """Say what was spent, what was saved for certain, and what that cost in quality."""
    from cascade.evaluation.render import to_text  # noqa: PLC0415 - heavy
    from cascade.evaluation.report import make_report  # noqa: PLC0415
    from cascade.ledger import Selection, open_store  # noqa: PLC0415

    selection = Selection(since=since, until=until, tags=to_tags(tag))
    with busy("reading the ledger"):
        opened = open_store(ledger, read_only=True)
        found = using(opened, lambda store: make_report(store, selection, tag=by))
    write_page(html, found.document)
    give(found, to_text(found.document))
