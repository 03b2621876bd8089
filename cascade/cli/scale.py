"""`cascade scale`: what a rate of requests needs, costs and saves; nothing is called."""

from __future__ import annotations

import asyncio
import math
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascade.cli.console import busy, out, print_json, reports_errors
from cascade.cli.prices import list_price, price_of_large, tokens_price
from cascade.cli.recipe import refuse_unless
from cascade.cli.report import must_exist, selection_of
from cascade.errors import ConfigurationError

if TYPE_CHECKING:
    from cascade.fleet import Bursts, Capacity, Costs, Needs, Scenario, Traffic, Workload
    from cascade.fleet.simulation import Simulated
    from cascade.ledger import ListPrice, Price

EXAMPLE = (
    "Example: cascade scale --rate 10 --rate 1000 --escalation 0.3 --small-s 1.7 --large-s 4 "
    "--slots 16 --replica-hour 3 --large openai:gpt-5.1"
)
TRAFFIC, PARTS, PRICES, SIMULATION = "Traffic", "What one can do", "Prices", "Simulation"
MOST_SIMULATED = 500_000
"""Requests of a simulation: a minute of computing, and more than any quantile needs."""

GO_WITH = {
    "small_s": ("small_cv",),
    "large_s": ("large_cv",),
    "simulate": ("burst", "seed"),
    "ledger": ("days", "tag"),
}
"""Options that mean nothing without another one."""


def _option(text: str, panel: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


@reports_errors
def scale(  # noqa: PLR0913 - every one is an option of the command
    context: typer.Context,
    *,
    rate: Annotated[
        list[float] | None, _option("Requests per second, on average; repeatable.", TRAFFIC)
    ] = None,
    peak: Annotated[
        float | None, _option("Rate of the busiest time over that. [default: 1]", TRAFFIC)
    ] = None,
    escalation: Annotated[
        float | None, _option("Share that the large model answers.", TRAFFIC)
    ] = None,
    audited: Annotated[
        float | None, _option("Share of accepted drafts that is audited. [default: 0]", TRAFFIC)
    ] = None,
    small_s: Annotated[
        float | None, _option("Seconds of a draft and its check, without any queue.", TRAFFIC)
    ] = None,
    small_cv: Annotated[
        float | None, _option("Its standard deviation over its mean. [default: 1]", TRAFFIC)
    ] = None,
    large_s: Annotated[float | None, _option("Seconds of a large answer.", TRAFFIC)] = None,
    large_cv: Annotated[
        float | None, _option("Its standard deviation over its mean. [default: 1]", TRAFFIC)
    ] = None,
    input_tokens: Annotated[int | None, _option("Of a request. [default: 400]", TRAFFIC)] = None,
    output_tokens: Annotated[
        int | None, _option("Of the small model's answer. [default: 150]", TRAFFIC)
    ] = None,
    large_output_tokens: Annotated[
        int | None, _option("Of the large model's, if longer or shorter.", TRAFFIC)
    ] = None,
    ledger: Annotated[
        str | None,
        _option(
            "Take of a ledger's traffic what is not given: sqlite:///… or postgresql://…", TRAFFIC
        ),
    ] = None,
    days: Annotated[
        float | None, _option("The last so many days of it.", TRAFFIC, min=0.001)
    ] = None,
    tag: Annotated[
        list[str] | None,
        _option("Only entries with this tag; repeatable.", TRAFFIC, metavar="KEY=VALUE"),
    ] = None,
    slots: Annotated[
        int | None, _option("Requests at a time of one replica of the small model.", PARTS)
    ] = None,
    cpu_ms: Annotated[
        float | None, _option("Processor time of the gateway per request. [default: 2.6]", PARTS)
    ] = None,
    concurrency: Annotated[
        int, _option("`concurrency` of the cascade, per gateway process.", PARTS)
    ] = 64,
    large_places: Annotated[
        int, _option("`most` of the large model's bulkhead, per process.", PARTS)
    ] = 256,
    tokens_per_minute: Annotated[
        int | None, _option("Quota of the large model, read and written.", PARTS)
    ] = None,
    requests_per_minute: Annotated[int | None, _option("Quota of the large model.", PARTS)] = None,
    database_rows: Annotated[
        float | None, _option("Rows per second of one PostgreSQL. [default: 10,000]", PARTS)
    ] = None,
    wait_s: Annotated[
        float, _option("Seconds in the small model's queue for 99 % at most.", PARTS)
    ] = 0.25,
    small: Annotated[
        str | None, _option("Model string with a list price, if it is hosted.", PRICES)
    ] = None,
    small_price: Annotated[
        str | None, _option("Dollars per 1M tokens.", PRICES, metavar="IN,OUT")
    ] = None,
    replica_hour: Annotated[
        str | None, _option("Dollars per hour of a replica, busy or not.", PRICES, metavar="USD")
    ] = None,
    large: Annotated[str | None, _option("Model string with a list price.", PRICES)] = None,
    large_price: Annotated[
        str | None, _option("Dollars per 1M tokens.", PRICES, metavar="IN,OUT")
    ] = None,
    gateway_hour: Annotated[
        str | None, _option("Dollars per hour of a gateway process.", PRICES, metavar="USD")
    ] = None,
    database_hour: Annotated[
        str | None, _option("Dollars per hour of a database.", PRICES, metavar="USD")
    ] = None,
    simulate: Annotated[
        float | None,
        _option("Simulate so many seconds of each fleet at its busiest time.", SIMULATION),
    ] = None,
    burst: Annotated[
        str | None,
        _option(
            "Bursts: factor of the rate, seconds they last, seconds between them, and what is "
            "escalated in them.",
            SIMULATION,
            metavar="FACTOR,S,S[,SHARE]",
        ),
    ] = None,
    seed: Annotated[int | None, _option("Of what is random. [default: 0]", SIMULATION)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Work out what a rate needs, costs and saves, and which part ends first, by which law."""
    from cascade.fleet import Capacity, needs  # noqa: PLC0415 - heavy, keeps --help fast

    _refuse_ignored(context)
    given: dict[str, Any] = {
        "peak": peak,
        "escalation": escalation,
        "audited": audited,
        "small": _time(small_s, small_cv),
        "large": _time(large_s, large_cv),
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "large_output_tokens": large_output_tokens,
    }
    traffic = None if ledger is None else _traffic(ledger, days, tag or [])
    workloads = _workloads(rate or [], given, traffic)
    rest: dict[str, Any] = {"gateway_cpu_ms": cpu_ms, "database_rows_per_s": database_rows}
    capacity = Capacity(
        replica_slots=slots,
        gateway_concurrency=concurrency,
        large_places=large_places,
        tokens_per_minute=tokens_per_minute,
        requests_per_minute=requests_per_minute,
        wait_s=wait_s,
        **{name: value for name, value in rest.items() if value is not None},
    )
    costs = _costs(
        (small, small_price), (large, large_price), (replica_hour, gateway_hour, database_hour)
    )
    found = [needs(workload, capacity, costs) for workload in workloads]
    bursts = None if burst is None else _bursts(burst)
    simulated = [_simulated(each, capacity, bursts, simulate, seed or 0) for each in found]
    _show(found, [each for each in simulated if each is not None], traffic, as_json=json)


def _refuse_ignored(context: typer.Context) -> None:
    for other, names in GO_WITH.items():
        there = context.params[other] is not None
        needed = "--" + other.replace("_", "-")
        for name in names:
            refuse_unless(there, context, name, needed=needed)


def _time(mean_s: float | None, cv: float | None) -> Any:
    from cascade.fleet import LognormalTime  # noqa: PLC0415 - see above

    if mean_s is None:
        return None
    return LognormalTime(mean_s=mean_s, cv=1.0 if cv is None else cv)


def _traffic(ledger: str, days: float | None, tags: list[str]) -> Traffic:
    from cascade.fleet import traffic_of  # noqa: PLC0415 - see above
    from cascade.ledger.store import open_store  # noqa: PLC0415 - see above

    must_exist(ledger)
    selection = selection_of(None, None, days, tags)

    async def read() -> Traffic:
        async with open_store(ledger, read_only=True) as store:
            return await traffic_of(each.entry async for each in store.stored(selection))

    with busy("reading the ledger"):
        return asyncio.run(read())


def _workloads(
    rates: list[float], given: dict[str, Any], traffic: Traffic | None
) -> list[Workload]:
    from cascade.fleet import Workload  # noqa: PLC0415 - see above

    said = {name: value for name, value in given.items() if value is not None}
    if traffic is not None:
        seen = traffic.workload
        known = {name: getattr(seen, name) for name in type(seen).model_fields}
        known.update(said)
        return [Workload(**{**known, "rate": rate}) for rate in rates or [seen.rate]]
    options = {"escalation": "--escalation", "small": "--small-s", "large": "--large-s"}
    missing = [option for name, option in options.items() if name not in said]
    missing += [] if rates else ["--rate"]
    if missing:
        raise ConfigurationError(f"give {', '.join(missing)}, or --ledger, which knows them.")
    return [Workload(rate=rate, **said) for rate in rates]


def _costs(
    small: tuple[str | None, str | None],
    large: tuple[str | None, str | None],
    hours: tuple[str | None, str | None, str | None],
) -> Costs | None:
    from cascade.fleet import Costs  # noqa: PLC0415 - see above

    if all(each is None for each in (*small, *large, *hours)):
        return None
    small_model, small_tokens = small
    small_price: Price | ListPrice | None = None
    if small_tokens is not None:
        small_price = tokens_price("--small-price", small_tokens)
    elif small_model is not None:
        small_price = list_price(small_model, "--small-price IN,OUT, or --replica-hour and --slots")
    replica_usd, gateway_usd, database_usd = (_usd(hour) for hour in hours)
    if small_price is None and replica_usd is None:
        raise ConfigurationError(
            "the small model has no price: give --replica-hour and --slots for machines of your "
            "own, or --small or --small-price."
        )
    return Costs(
        large=price_of_large(*large),
        small=small_price,
        replica_hour_usd=replica_usd,
        gateway_hour_usd=gateway_usd,
        database_hour_usd=database_usd,
    )


def _usd(text: str | None) -> Decimal | None:
    try:
        return None if text is None else Decimal(text)
    except ArithmeticError:
        raise ConfigurationError(f"{text!r} is no amount of dollars: write 2.50.") from None


def _bursts(text: str) -> Bursts:
    from cascade.fleet import Bursts  # noqa: PLC0415 - see above

    names = ("factor", "lasts_s", "every_s", "escalation")
    parts = text.split(",")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if len(values) not in (3, 4):
        raise ConfigurationError(
            f"--burst {text!r}: write FACTOR,LASTS_S,EVERY_S, for instance 3,10,60, and a share "
            "behind it if bursts are escalated more: 3,10,60,0.5."
        )
    return Bursts(**dict(zip(names, values, strict=False)))


def _simulated(
    found: Needs, capacity: Capacity, bursts: Bursts | None, seconds: float | None, seed: int
) -> Simulated | None:
    from cascade.fleet import scenario_of  # noqa: PLC0415 - see above

    if seconds is None:
        return None
    from cascade.fleet.simulation import simulate  # noqa: PLC0415 - needs an extra

    scenario: Scenario = scenario_of(found, capacity, bursts)
    requests = scenario.rate * seconds
    if requests > MOST_SIMULATED:
        raise ConfigurationError(
            f"--simulate {seconds:g} at {scenario.rate:g} requests/s is {requests:,.0f} requests, "
            f"more than {MOST_SIMULATED:,}: give at most {MOST_SIMULATED / scenario.rate:.3g} "
            "seconds, or the rate of one part of the fleet."
        )
    with busy(f"simulating {scenario.rate:g} requests/s"):
        return simulate(scenario, seconds=seconds, seed=seed)


def _show(
    found: list[Needs], simulated: list[Simulated], traffic: Traffic | None, *, as_json: bool
) -> None:
    from cascade.fleet import laws_text, needs_text, simulated_text, verdict  # noqa: PLC0415

    if as_json:
        seen = None
        if traffic is not None:
            seen = {"runs": traffic.runs, "seconds": traffic.seconds}
        fleets = [{"summary": verdict(each), **each.model_dump(exclude=_BULKY)} for each in found]
        runs = [{name: _known(value) for name, value in one} for one in simulated]
        print_json({"ledger": seen, "fleets": fleets, "simulated": runs})
        return
    if traffic is not None:
        out.print(f"From {traffic.runs:,} runs in {traffic.seconds / 3600:,.1f} hours.\n")
    for each in found:
        out.print(verdict(each), markup=False)
    out.print(f"\n{needs_text(found)}\n\n{laws_text(found)}", markup=False)
    for each, one in zip(found, simulated, strict=False):
        out.print(f"\n{simulated_text(each, one)}", markup=False)


def _known(figure: float | None) -> float | None:
    """JSON has no number for what nothing was counted of."""
    return None if figure is not None and math.isnan(figure) else figure


_BULKY = {"workload": {"small": {"seconds"}, "large": {"seconds"}}}
