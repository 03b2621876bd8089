"""Money before and after: `cascade plan` (from which accept rate a cascade saves, from prices or
recorded costs) and `cascade report` (what a ledger says was spent and saved)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Annotated, Any

from typer import Argument, Option

from cascade.cli.console import busy, give
from cascade.cli.options import (
    Amount,
    Count,
    File,
    LargeName,
    Page,
    SmallName,
    Text,
    Texts,
    spread,
    to_tags,
    using,
    write_page,
)
from cascade.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """A request: its prices, tokens and seconds."""

    small: SmallName = None
    large: LargeName = None
    small_price: Annotated[Text, Option(metavar="IN,OUT", help="Dollars per 1M tokens.")] = None
    large_price: Annotated[Text, Option(metavar="IN,OUT", help="Dollars per 1M tokens.")] = None
    hourly: Annotated[Amount, Option(help="Dollars per hour of the small model's machine.")] = None
    utilisation: Annotated[Decimal, Option(help="Share in which it computes.")] = Decimal(1)
    kw: Annotated[Amount, Option(help="Kilowatts that it draws while it computes.")] = None
    kwh_price: Annotated[Amount, Option(help="Dollars per kWh.")] = None
    input_tokens: Annotated[Count, Option(min=0, help="Of a request.")] = None
    output_tokens: Annotated[Count, Option(min=0, help="Of the small model's answer.")] = None
    large_output_tokens: Annotated[Count, Option(min=1, help="Of the large one's.")] = None
    busy_s: Annotated[Amount, Option(min=0, help="It computes so long for a draft.")] = None
    check_calls: Annotated[int, Option(min=0, help="Of a self-check without log-probs.")] = 0


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Expected use."""

    accept_rate: Annotated[
        Amount, Option("--accept", min=0, max=1, help="Share of the drafts that is accepted.")
    ] = None
    accept_n: Annotated[Count, Option(min=1, help="Seen on so many: gives intervals.")] = None
    requests: Annotated[Amount, Option(min=0, help="Requests per month.")] = None
    fixed_usd: Annotated[
        Decimal, Option(min=0, help="A month: hardware written off, maintenance, training.")
    ] = Decimal(0)


@spread
def plan(
    recorded: Annotated[
        File, Argument(help="Recorded answers or runs of agents: the costs are theirs.")
    ] = None,
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
    known = dict(vars(expected))
    if recorded is not None:
        with busy(f"reading {recorded}"):
            seen = expected.accept_rate, expected.accept_n
            known |= work.recorded(recorded, request.small, request.large, *seen)
        note = f"The costs are those of {recorded}."
    else:
        costs, note = _costs(request)
        known |= costs
    found = work.plan(**known)
    told = {"summary": found.sentence, "verdict": found.verdict, **found.figures}
    ratio = found.figures["cost_ratio"].value
    told |= {"cost_ratio": ratio, "break_even_accept_rate": found.break_even}
    give({**told, "from_requests": found.from_requests}, to_text(work.to_document(found, [note])))


def _costs(request: RequestOptions) -> tuple[dict[str, Decimal], str]:
    """Dollars of a draft, its check and a large answer, and what they rest on."""
    from cascade.evaluation import plan as work  # noqa: PLC0415 - heavy, keeps --help fast
    from cascade.ledger.prices import Price  # noqa: PLC0415

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
    small = _price("small", request.small, request.small_price, by_hour)
    large = _price("large", request.large, request.large_price, None)
    asked = read + written + work.CHECK_QUESTION_TOKENS
    check = work.call_usd(small, asked, work.CHECK_ANSWER_TOKENS, request.busy_s)
    costs = {
        "draft_usd": work.call_usd(small, read, written, request.busy_s),
        "check_usd": request.check_calls * check,
        "large_usd": work.call_usd(large, read, request.large_output_tokens or written),
    }
    return costs, f"Prices: {small.source} (small); {large.source} (large)."


def _price(which: str, model: Text, tokens: Text, by_hour: Amount) -> Any:
    """The price of a model, from what was typed about it."""
    from cascade.ledger.prices import ListPrice, Price, find_pricing  # noqa: PLC0415 - heavy

    provider, _, name = (model or "").partition(":")
    local = provider in ("", "llamacpp", "ollama", "replay")
    if by_hour is not None and not local:
        raise ConfigurationError(
            f"--{which} {model} is hosted and has a price per token: the machine's price "
            "(--hourly, --kw) goes with a local model."
        )
    if tokens is not None:
        try:
            price_in, price_out = map(Decimal, tokens.split(","))
        except (ValueError, InvalidOperation):
            raise ConfigurationError(
                f"--{which}-price {tokens!r}: write two prices with a comma, dollars per 1M input "
                f"and output tokens: --{which}-price 1.25,10."
            ) from None
        return Price(input=price_in, output=price_out, per_hour=by_hour)
    if by_hour is not None:
        return Price(per_hour=by_hour)
    if name:
        found = find_pricing(provider, name, local=local, base_url=None)
        if isinstance(found, ListPrice):
            return found
    machine = ", or --hourly for a machine of your own" if which == "small" else ""
    raise ConfigurationError(
        f"there is no price of {model or f'the {which} model'}: give --{which} with a list price, "
        f"such as openai:gpt-5.1, --{which}-price IN,OUT{machine}."
    )


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
    from cascade.evaluation.render import to_text  # noqa: PLC0415 - heavy
    from cascade.evaluation.report import make_report  # noqa: PLC0415
    from cascade.ledger import Selection, open_store  # noqa: PLC0415

    selection = Selection(since=_time(since), until=_time(until), tags=to_tags(tag))

    with busy("reading the ledger"):
        made = partial(make_report, selection=selection, tag=by, compare=compare)
        found = using(open_store(ledger, read_only=True), made)
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
