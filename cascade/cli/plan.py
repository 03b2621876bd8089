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

    small: Annotated[Text, Option(help="Model string with a list price, or recorded.")] = None
    large: Annotated[Text, Option(help="Model string with a list price, or recorded.")] = None
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
    large_output_tokens: Annotated[Count, Option(min=0, help="Of the large one's, if unlike.")] = (
        None
    )
    tokens_per_s: Annotated[Amount, Option(min=0.001, help="It writes so many a second.")] = None
    prompt_tokens_per_s: Annotated[Amount, Option(min=0.001, help="It reads so many.")] = None
    busy_s: Annotated[Amount, Option(min=0, help="Or: it computes so long for a draft.")] = None
    check_calls: Annotated[int, Option(min=0, help="Of a self-check without log-probs.")] = 0
    check_usd: Annotated[Amount, Option(min=0, help="Or: dollars of a self-check.")] = None


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What is expected."""

    accept_rate: Annotated[
        Amount, Option("--accept", min=0, max=1, help="Share of the drafts that is accepted.")
    ] = None
    accept_n: Annotated[Count, Option(min=1, help="Seen on so many: gives intervals.")] = None


@dataclass(frozen=True, kw_only=True)
class Owning:
    """Owning."""

    requests: Annotated[Amount, Option(min=0, help="Requests per month.")] = None
    purchase: Annotated[Decimal, Option(min=0, help="Dollars paid once.")] = Decimal(0)
    months: Annotated[Decimal, Option(min=1, help="To write them off.")] = Decimal(36)
    maintenance_hours: Annotated[Decimal, Option(min=0, help="A month.")] = Decimal(0)
    hour_price: Annotated[Amount, Option(min=0, help="Dollars of such an hour.")] = None


@spread
def plan(
    recorded: Annotated[
        File, Argument(help="Recorded answers or runs of agents: the costs are theirs.")
    ] = None,
    *,
    prices: Prices,
    speed: Speed,
    expected: Expected,
    owning: Owning,
) -> None:
    """Work out from which accept rate a cascade saves money, how much, or that it never does."""
    need("calibrate")
    from cascade.evaluation import plan as work  # noqa: PLC0415 - heavy, keeps --help fast
    from cascade.evaluation.render import to_text  # noqa: PLC0415

    for option, given, needed, other in (
        ("--accept-n", expected.accept_n, "--accept", expected.accept_rate),
        ("--prompt-tokens-per-s", speed.prompt_tokens_per_s, "--tokens-per-s", speed.tokens_per_s),
        ("--maintenance-hours", owning.maintenance_hours, "--hour-price", owning.hour_price),
        ("--kwh-price", prices.kwh_price, "--kw", prices.kw),
    ):
        if given and not other:
            raise ConfigurationError(f"{option} {given} says nothing alone: give {needed} too.")
    if recorded is not None:
        with busy(f"reading {recorded}"):
            known = work.recorded(recorded, prices.small, prices.large, **vars(expected))
        notes = [f"The costs are those of {recorded}."]
    else:
        costs, notes = _costs(prices, speed)
        known = {**costs, **vars(expected)}
    hours = owning.maintenance_hours * (owning.hour_price or Decimal(0))
    fixed = owning.purchase / owning.months + hours
    found = work.plan(requests=owning.requests, fixed_usd=fixed, **known)
    headline = {"summary": found.sentence, "break_even_accept_rate": found.cost_ratio}
    give({**headline, **asdict(found)}, to_text(work.to_document(found, notes)))


def _costs(prices: Prices, speed: Speed) -> tuple[dict[str, Decimal], list[str]]:
    """Dollars of a draft, its check and a large answer, and what they rest on."""
    from cascade.evaluation import plan as work  # noqa: PLC0415 - heavy, keeps --help fast

    read, written, rate = speed.input_tokens, speed.output_tokens, speed.tokens_per_s
    if read is None or written is None:
        raise ConfigurationError(
            "give --input-tokens and --output-tokens of a request, or a file of recorded answers."
        )
    if speed.busy_s is not None and rate is not None:
        raise ConfigurationError(
            f"--busy-s {speed.busy_s} and --tokens-per-s {rate} say the same twice: give one of "
            "them."
        )
    small = _price("small", prices.small, prices.small_price, _by_hour(prices))
    large = _price("large", prices.large, prices.large_price, None)
    notes = [f"Prices: {small.source} (small); {large.source} (large)."]
    if rate is not None and speed.prompt_tokens_per_s is None:
        notes.append(
            f"Assumed: the small model reads {work.READS_FASTER} times faster than it writes. "
            "Give --prompt-tokens-per-s to plan with its own speed."
        )

    def call(read: int, written: int) -> Decimal:
        busy_s = speed.busy_s
        if rate is not None:
            reads = speed.prompt_tokens_per_s or work.READS_FASTER * rate
            busy_s = written / rate + read / reads
        return work.call_usd(small, read, written, busy_s)

    check = speed.check_usd
    if check is None:
        asked = read + written + work.CHECK_QUESTION_TOKENS
        check = speed.check_calls * call(asked, work.CHECK_ANSWER_TOKENS)
    answer = written if speed.large_output_tokens is None else speed.large_output_tokens
    costs = {
        "draft_usd": call(read, written),
        "check_usd": check,
        "large_usd": work.call_usd(large, read, answer),
    }
    return costs, notes


def _by_hour(given: Prices) -> Amount:
    """Dollars of a busy hour of the small model's machine."""
    from cascade.ledger.prices import Price  # noqa: PLC0415 - heavy

    if given.hourly is None and given.kw is None:
        return None
    power = {"kw": given.kw or 0, "kwh": given.kwh_price or 0}
    hardware = given.hourly or 0
    machine = Price.local(hardware_per_hour=hardware, utilisation=given.utilisation, **power)
    return machine.per_hour


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
