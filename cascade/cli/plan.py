"""`cascade plan`: from which accept rate a cascade saves money, before anything is recorded."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascade.cli.console import print_json, reports_errors, show
from cascade.cli.options import Json, list_price, tokens_price
from cascade.errors import ConfigurationError

if TYPE_CHECKING:
    from cascade.ledger.prices import Price

EXAMPLE = (
    "Example: cascade plan --input-tokens 400 --output-tokens 100 --small-price 0.1,0.4 "
    "--large openai:gpt-5.1 --accept 0.6"
)


def _number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def _option(text: str, panel: str, metavar: str = "NUMBER") -> Any:
    return typer.Option(help=text, rich_help_panel=panel, metavar=metavar, parser=_number)


PRICES, SPEED, ACCEPTING, OWNING = "Prices", "Tokens and speed", "What is expected", "Owning"


@reports_errors
def plan(
    *,
    small: Annotated[
        str | None, typer.Option(help="Model string with a list price.", rich_help_panel=PRICES)
    ] = None,
    large: Annotated[
        str | None, typer.Option(help="Model string with a list price.", rich_help_panel=PRICES)
    ] = None,
    small_price: Annotated[
        str | None,
        typer.Option(metavar="IN,OUT", help="Dollars per 1M tokens.", rich_help_panel=PRICES),
    ] = None,
    large_price: Annotated[
        str | None,
        typer.Option(metavar="IN,OUT", help="Dollars per 1M tokens.", rich_help_panel=PRICES),
    ] = None,
    hourly: Annotated[
        Decimal | None, _option("Dollars per hour of the small model's machine.", PRICES)
    ] = None,
    utilisation: Annotated[
        Decimal | None, _option("Share of the paid hours in which it computes.", PRICES)
    ] = None,
    kw: Annotated[
        Decimal | None, _option("Kilowatts that it draws while it computes.", PRICES)
    ] = None,
    kwh_price: Annotated[Decimal | None, _option("Dollars per kWh.", PRICES)] = None,
    input_tokens: Annotated[int, typer.Option(help="Of a request.", rich_help_panel=SPEED)],
    output_tokens: Annotated[
        int, typer.Option(help="Of the small model's answer.", rich_help_panel=SPEED)
    ],
    large_output_tokens: Annotated[
        int | None,
        typer.Option(
            help="Of the large model's answer, if it is longer or shorter.", rich_help_panel=SPEED
        ),
    ] = None,
    tokens_per_s: Annotated[
        Decimal | None, _option("Tokens that it writes in a second.", SPEED)
    ] = None,
    prompt_tokens_per_s: Annotated[
        Decimal | None, _option("Tokens that it reads in a second.", SPEED)
    ] = None,
    busy_s: Annotated[
        Decimal | None, _option("Or: seconds that it computes for a draft.", SPEED)
    ] = None,
    check_calls: Annotated[
        int,
        typer.Option(
            help="Calls of the self-check per draft; log-probs need none.", rich_help_panel=SPEED
        ),
    ] = 0,
    check_usd: Annotated[
        Decimal | None, _option("Or: dollars of the self-check per draft.", SPEED)
    ] = None,
    accept: Annotated[
        Decimal | None, _option("Share of the drafts that is accepted.", ACCEPTING)
    ] = None,
    accept_n: Annotated[
        int | None,
        typer.Option(
            help="On how many examples that was seen: gives intervals.", rich_help_panel=ACCEPTING
        ),
    ] = None,
    requests: Annotated[Decimal | None, _option("Requests per month.", OWNING)] = None,
    purchase: Annotated[
        Decimal, _option("Dollars paid once: machine, training, set-up.", OWNING)
    ] = Decimal(0),
    months: Annotated[
        Decimal, _option("Over which the purchase is written off.", OWNING)
    ] = Decimal(36),
    maintenance_hours: Annotated[Decimal, _option("Of a person, per month.", OWNING)] = Decimal(0),
    hour_price: Annotated[Decimal | None, _option("Dollars of such an hour.", OWNING)] = None,
    json: Json = False,
) -> None:
    """Work out from which accept rate a cascade saves money, how much, or that it never does."""
    from cascade.evaluation import plan as work  # noqa: PLC0415 - heavy, keeps --help fast
    from cascade.evaluation.render import to_text  # noqa: PLC0415

    if kwh_price is not None and not kw:
        raise ConfigurationError(f"--kwh-price {kwh_price} prices nothing: give --kw.")
    by_hour = _by_hour(hourly, utilisation, kw, kwh_price)
    inputs = work.PlanInputs(
        small=_small_price(small, small_price, by_hour),
        large=_large_price(large, large_price),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        large_output_tokens=large_output_tokens,
        busy_s=busy_s,
        tokens_per_s=tokens_per_s,
        prompt_tokens_per_s=prompt_tokens_per_s,
        check_calls=check_calls,
        check_usd=check_usd,
        accept_rate=accept,
        accept_n=accept_n,
        requests_per_month=requests,
        purchase_usd=purchase,
        months=months,
        maintenance_hours=maintenance_hours,
        hour_usd=hour_price,
    )
    found = work.plan(inputs)
    if json:
        print_json(
            {
                "summary": found.sentence,
                "break_even_accept_rate": found.cost_ratio,
                **found.model_dump(),
            }
        )
    else:
        show(to_text(work.to_document(found)))


def _by_hour(
    hourly: Decimal | None,
    utilisation: Decimal | None,
    kw: Decimal | None,
    kwh_price: Decimal | None,
) -> Price | None:
    """Price of a busy hour of the small model's machine: dollars per hour ÷ utilisation, and
    power."""
    from cascade.ledger.prices import Price  # noqa: PLC0415 - heavy, keeps --help fast

    if hourly is None and kw is None and utilisation is None:
        return None
    share = Decimal(1) if utilisation is None else utilisation
    if not 0 < share <= 1:
        raise ConfigurationError(f"--utilisation {share}: a share above 0, up to 1.")
    power = kw * kwh_price if kw and kwh_price else Decimal(0)
    return Price(per_hour=(hourly or Decimal(0)) / share + power)


def _small_price(model: str | None, tokens: str | None, by_hour: Price | None) -> Any:
    from cascade.ledger.prices import Price  # noqa: PLC0415 - heavy, keeps --help fast

    local = model is None or model.partition(":")[0] in ("llamacpp", "ollama", "replay")
    if by_hour is not None and not local:
        raise ConfigurationError(
            f"--small {model} is hosted and has a price per token: the machine's price "
            "(--hourly, --kw) goes with a local model."
        )
    if tokens is not None:
        per_token = tokens_price("--small-price", tokens)
        if by_hour is None:
            return per_token
        return Price(input=per_token.input, output=per_token.output, per_hour=by_hour.per_hour)
    if by_hour is not None:
        return by_hour
    if model is None:
        raise ConfigurationError(
            "the small model has no price: give --small, --small-price IN,OUT, or --hourly for a "
            "machine of your own."
        )
    return list_price(model, "--small-price")


def _large_price(model: str | None, tokens: str | None) -> Any:
    if tokens is not None:
        return tokens_price("--large-price", tokens)
    if model is None:
        raise ConfigurationError("the large model has no price: give --large or --large-price.")
    return list_price(model, "--large-price")
