"""`cascade plan`: from which accept rate a cascade saves money, before anything is recorded."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import typer

from cascade.cli.console import print_json, show
from cascade.cli.judge import need_numbers
from cascade.cli.options import Json, number
from cascade.errors import ConfigurationError

EXAMPLE = (
    "Example: cascade plan --input-tokens 400 --output-tokens 100 --small-price 0.1,0.4 "
    "--large openai:gpt-5.1 --accept 0.6"
)


PRICES, SPEED, ACCEPTING, OWNING = "Prices", "Tokens and speed", "What is expected", "Owning"


def _option(text: str, panel: str, metavar: str | None = None) -> Any:
    return typer.Option(help=text, rich_help_panel=panel, metavar=metavar)


def _number(text: str, panel: str) -> Any:
    option = number(text, Decimal, "is not a number")
    option.rich_help_panel = panel
    return option


def plan(
    *,
    small: Annotated[str | None, _option("Model string with a list price.", PRICES)] = None,
    large: Annotated[str | None, _option("Model string with a list price.", PRICES)] = None,
    small_price: Annotated[
        str | None, _option("Dollars per 1M tokens.", PRICES, metavar="IN,OUT")
    ] = None,
    large_price: Annotated[
        str | None, _option("Dollars per 1M tokens.", PRICES, metavar="IN,OUT")
    ] = None,
    hourly: Annotated[
        Decimal | None, _number("Dollars per hour of the small model's machine.", PRICES)
    ] = None,
    utilisation: Annotated[
        Decimal, _number("Share of the paid hours in which it computes.", PRICES)
    ] = Decimal(1),
    kw: Annotated[
        Decimal | None, _number("Kilowatts that it draws while it computes.", PRICES)
    ] = None,
    kwh_price: Annotated[Decimal | None, _number("Dollars per kWh.", PRICES)] = None,
    input_tokens: Annotated[int, _option("Of a request.", SPEED)],
    output_tokens: Annotated[int, _option("Of the small model's answer.", SPEED)],
    large_output_tokens: Annotated[
        int | None, _option("Of the large model's answer, if it is longer or shorter.", SPEED)
    ] = None,
    tokens_per_s: Annotated[
        Decimal | None, _number("Tokens that it writes in a second.", SPEED)
    ] = None,
    prompt_tokens_per_s: Annotated[
        Decimal | None, _number("Tokens that it reads in a second.", SPEED)
    ] = None,
    busy_s: Annotated[
        Decimal | None, _number("Or: seconds that it computes for a draft.", SPEED)
    ] = None,
    check_calls: Annotated[
        int, _option("Calls of the self-check per draft; log-probs need none.", SPEED)
    ] = 0,
    check_usd: Annotated[
        Decimal | None, _number("Or: dollars of the self-check per draft.", SPEED)
    ] = None,
    accept: Annotated[
        Decimal | None, _number("Share of the drafts that is accepted.", ACCEPTING)
    ] = None,
    accept_n: Annotated[
        int | None, _option("On how many examples that was seen: gives intervals.", ACCEPTING)
    ] = None,
    requests: Annotated[Decimal | None, _number("Requests per month.", OWNING)] = None,
    purchase: Annotated[
        Decimal, _number("Dollars paid once: machine, training, set-up.", OWNING)
    ] = Decimal(0),
    months: Annotated[
        Decimal, _number("Over which the purchase is written off.", OWNING)
    ] = Decimal(36),
    maintenance_hours: Annotated[Decimal, _number("Of a person, per month.", OWNING)] = Decimal(0),
    hour_price: Annotated[Decimal | None, _number("Dollars of such an hour.", OWNING)] = None,
    json: Json = False,
) -> None:
    """Work out from which accept rate a cascade saves money, how much, or that it never does."""
    need_numbers()
    from cascade.evaluation import plan as work  # noqa: PLC0415 - heavy, keeps --help fast
    from cascade.evaluation.render import to_text  # noqa: PLC0415

    by_hour = _by_hour(hourly, utilisation, kw, kwh_price)
    inputs = work.PlanInputs(
        small=_price("small", small, small_price, by_hour),
        large=_price("large", large, large_price, None),
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
    hourly: Decimal | None, utilisation: Decimal, kw: Decimal | None, kwh_price: Decimal | None
) -> Decimal | None:
    """Dollars of a busy hour of the small model's machine: rent ÷ utilisation, and power."""
    if kwh_price is not None and not kw:
        raise ConfigurationError(f"--kwh-price {kwh_price} prices nothing: give --kw.")
    if not 0 < utilisation <= 1:
        raise ConfigurationError(f"--utilisation {utilisation}: a share above 0, up to 1.")
    if hourly is None and kw is None:
        return None
    return (hourly or Decimal(0)) / utilisation + (kw or Decimal(0)) * (kwh_price or Decimal(0))


def _price(which: str, model: str | None, tokens: str | None, by_hour: Decimal | None) -> Any:
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
    if model is not None and not name:
        raise ConfigurationError(f"{model!r} is no model string: write openai:gpt-5.1.")
    found = find_pricing(provider, name, local=local, base_url=None) if model else None
    if isinstance(found, ListPrice):
        return found
    machine = ", or --hourly for a machine of your own" if which == "small" else ""
    raise ConfigurationError(
        f"there is no price of {model or f'the {which} model'}: give --{which} with a list price, "
        f"--{which}-price IN,OUT{machine}."
    )
