"""`cascade plan`: from which accept rate a cascade saves money, before anything is recorded."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from typer import Option

from cascade.cli.console import give
from cascade.cli.judge import need_numbers
from cascade.cli.options import Amount, Text, spread
from cascade.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Prices."""

    small: Annotated[Text, Option(help="Model string with a list price.")] = None
    large: Annotated[Text, Option(help="Model string with a list price.")] = None
    small_price: Annotated[Text, Option(metavar="IN,OUT", help="Dollars per 1M tokens.")] = None
    large_price: Annotated[Text, Option(metavar="IN,OUT", help="Dollars per 1M tokens.")] = None
    hourly: Annotated[Amount, Option(help="Dollars per hour of the small model's machine.")] = None
    utilisation: Annotated[
        Decimal, Option(help="Share of the paid hours in which it computes.")
    ] = Decimal(1)
    kw: Annotated[Amount, Option(help="Kilowatts that it draws while it computes.")] = None
    kwh_price: Annotated[Amount, Option(help="Dollars per kWh.")] = None


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Tokens and speed."""

    input_tokens: Annotated[int, Option(help="Of a request.")]
    output_tokens: Annotated[int, Option(help="Of the small model's answer.")]
    large_output_tokens: Annotated[
        int | None, Option(help="Of the large model's answer, if it is longer or shorter.")
    ] = None
    tokens_per_s: Annotated[Amount, Option(help="Tokens that it writes in a second.")] = None
    prompt_tokens_per_s: Annotated[Amount, Option(help="Tokens that it reads in a second.")] = None
    busy_s: Annotated[Amount, Option(help="Or: seconds that it computes for a draft.")] = None
    check_calls: Annotated[
        int, Option(help="Calls of the self-check per draft; log-probs need none.")
    ] = 0
    check_usd: Annotated[Amount, Option(help="Or: dollars of the self-check per draft.")] = None


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What is expected."""

    accept_rate: Annotated[
        Amount, Option("--accept", help="Share of the drafts that is accepted.")
    ] = None
    accept_n: Annotated[
        int | None, Option(help="On how many examples that was seen: gives intervals.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Owning:
    """Owning."""

    requests_per_month: Annotated[Amount, Option("--requests", help="Requests per month.")] = None
    purchase_usd: Annotated[
        Decimal, Option("--purchase", help="Dollars paid once: machine, training, set-up.")
    ] = Decimal(0)
    months: Annotated[Decimal, Option(help="Over which the purchase is written off.")] = Decimal(36)
    maintenance_hours: Annotated[Decimal, Option(help="Of a person, per month.")] = Decimal(0)
    hour_usd: Annotated[Amount, Option("--hour-price", help="Dollars of such an hour.")] = None


@spread
def plan(*, prices: Prices, speed: Speed, expected: Expected, owning: Owning) -> None:
    """Work out from which accept rate a cascade saves money, how much, or that it never does."""
    need_numbers()
    from cascade.evaluation import plan as work  # noqa: PLC0415 - heavy, keeps --help fast
    from cascade.evaluation.render import to_text  # noqa: PLC0415

    given: dict[str, Any] = vars(speed) | vars(expected) | vars(owning)
    by_hour = _by_hour(prices)
    small = _price("small", prices.small, prices.small_price, by_hour)
    large = _price("large", prices.large, prices.large_price, None)
    found = work.plan(work.PlanInputs(small=small, large=large, **given))
    headline = {"summary": found.sentence, "break_even_accept_rate": found.cost_ratio}
    give({**headline, **found.model_dump()}, to_text(work.to_document(found)))


def _by_hour(given: Prices) -> Amount:
    """Dollars of a busy hour of the small model's machine: rent ÷ utilisation, and power."""
    if given.kwh_price is not None and not given.kw:
        raise ConfigurationError(f"--kwh-price {given.kwh_price} prices nothing: give --kw.")
    if not 0 < given.utilisation <= 1:
        raise ConfigurationError(f"--utilisation {given.utilisation}: a share above 0, up to 1.")
    if given.hourly is None and given.kw is None:
        return None
    power = (given.kw or Decimal(0)) * (given.kwh_price or Decimal(0))
    return (given.hourly or Decimal(0)) / given.utilisation + power


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
