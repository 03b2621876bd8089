"""`cascade plan`: from which accept rate a cascade saves money, from prices or recorded costs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from typer import Argument, Option

from cascade.cli.console import busy, give
from cascade.cli.options import Amount, Count, File, Text, need, spread
from cascade.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Prices."""

    small: Annotated[
        Text, Option(envvar="CASCADE_SMALL", help="Model string with a list price, or recorded.")
    ] = None
    large: Annotated[
        Text, Option(envvar="CASCADE_LARGE", help="Model string with a list price, or recorded.")
    ] = None
    small_price: Annotated[Text, Option(metavar="IN,OUT", help="Dollars per 1M tokens.")] = None
    large_price: Annotated[Text, Option(metavar="IN,OUT", help="Dollars per 1M tokens.")] = None
    hourly: Annotated[Amount, Option(help="Dollars per hour of the small model's machine.")] = None
    utilisation: Annotated[Decimal, Option(help="Share in which it computes.")] = Decimal(1)
    kw: Annotated[Amount, Option(help="Kilowatts that it draws while it computes.")] = None
    kwh_price: Annotated[Amount, Option(help="Dollars per kWh.")] = None


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Tokens and speed."""

    input_tokens: Annotated[Count, Option(min=0, help="Of a request.")] = None
    output_tokens: Annotated[Count, Option(min=0, help="Of the small model's answer.")] = None
    large_output_tokens: Annotated[Count, Option(min=1, help="Of the large one's.")] = None
    tokens_per_s: Annotated[Amount, Option(min=0.001, help="It writes so many a second.")] = None
    busy_s: Annotated[Amount, Option(min=0, help="Or: it computes so long for a draft.")] = None
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
    prices: Prices,
    speed: Speed,
    expected: Expected,
) -> None:
    """Work out from which accept rate a cascade saves money, how much, or that it never does."""
    need("calibrate")
    from cascade.evaluation import plan as work  # noqa: PLC0415 - heavy, keeps --help fast
    from cascade.evaluation.render import to_text  # noqa: PLC0415

    if expected.accept_n and expected.accept_rate is None:
        raise ConfigurationError("--accept-n says nothing alone: give --accept too.")
    if prices.kwh_price and prices.kw is None:
        raise ConfigurationError("--kwh-price says nothing alone: give --kw too.")
    known = dict(vars(expected))
    if recorded is not None:
        with busy(f"reading {recorded}"):
            seen = expected.accept_rate, expected.accept_n
            known |= work.recorded(recorded, prices.small, prices.large, *seen)
        notes = [f"The costs are those of {recorded}."]
    else:
        costs, notes = _costs(prices, speed)
        known |= costs
    found = work.plan(**known)
    headline = {"summary": found.sentence, "break_even_accept_rate": found.cost_ratio}
    told = {**asdict(found), "verdict": found.verdict, "sentence": found.sentence}
    give({**headline, **told}, to_text(work.to_document(found, notes)))


def _costs(prices: Prices, speed: Speed) -> tuple[dict[str, Decimal], list[str]]:
    """Dollars of a draft, its check and a large answer, and what they rest on."""
    from cascade.evaluation import plan as work  # noqa: PLC0415 - heavy, keeps --help fast
    from cascade.ledger.prices import Price  # noqa: PLC0415

    read, written, rate = speed.input_tokens, speed.output_tokens, speed.tokens_per_s
    if read is None or written is None:
        raise ConfigurationError(
            "give --input-tokens and --output-tokens of a request, or a file of recorded answers."
        )
    if speed.busy_s is not None and rate is not None:
        raise ConfigurationError("--busy-s and --tokens-per-s say the same twice: give one.")
    by_hour = None
    if prices.hourly is not None or prices.kw is not None:
        power = {"kw": prices.kw or 0, "kwh": prices.kwh_price or 0}
        hardware = {"hardware_per_hour": prices.hourly or 0, "utilisation": prices.utilisation}
        by_hour = Price.local(**hardware, **power).per_hour
    small = _price("small", prices.small, prices.small_price, by_hour)
    large = _price("large", prices.large, prices.large_price, None)
    notes = [f"Prices: {small.source} (small); {large.source} (large)."]
    if rate is not None:
        notes.append(
            f"Assumed: the small model reads {work.READS_FASTER} times faster than it writes; "
            "--busy-s takes seconds that were measured."
        )

    def call(read: int, written: int) -> Decimal:
        seconds = speed.busy_s
        if rate is not None:
            seconds = written / rate + read / (work.READS_FASTER * rate)
        return work.call_usd(small, read, written, seconds)

    check = call(read + written + work.CHECK_QUESTION_TOKENS, work.CHECK_ANSWER_TOKENS)
    costs = {"draft_usd": call(read, written), "check_usd": speed.check_calls * check}
    costs["large_usd"] = work.call_usd(large, read, speed.large_output_tokens or written)
    return costs, notes


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
