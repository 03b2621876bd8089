"""Whether a cascade can pay, from prices and an expected accept rate; nothing is called.

With c_S, c_V and c_L the dollars of a draft, its check and a large answer, and a the share of
drafts that is accepted, a request costs c_S + c_V + (1 − a)·c_L. Relative to the large model alone
that is r + (1 − a) with r = (c_S + c_V)/c_L: a cascade saves only if a > r, and never if r ≥ 1
(the counter-evidence is "Is Escalation Worth It?", arXiv 2605.06350).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from cascade.errors import ConfigurationError
from cascade.evaluation.audit import wilson
from cascade.evaluation.render import (
    Cell,
    Document,
    Fact,
    Figure,
    Table,
    Tone,
    Unit,
    dollars,
    percent,
    words,
)
from cascade.ledger.prices import ListPrice, Price
from cascade.state import Record, Usage

CHECK_QUESTION_TOKENS = 30
"""What a self-check asks beyond the question and the draft."""

CHECK_ANSWER_TOKENS = 4
"""Room for its one word."""

READS_FASTER = 5
"""A machine reads a prompt so many times faster than it writes, where nothing else is said."""

Amount = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[Decimal, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]

Verdict = Literal["saves", "loses", "uncertain", "open", "never"]
"""`open`: it depends on an accept rate that was not given. `uncertain`: its interval says both."""

_TOGETHER: Mapping[str, str] = {
    "accept_n": "accept_rate",
    "prompt_tokens_per_s": "tokens_per_s",
    "maintenance_hours": "hour_usd",
}


class PlanInputs(Record):
    """The figures of a planned cascade.

    Args:
        small: price of the small model, per token, per busy hour (`Price.local`), or both.
        large: price of the large model.
        input_tokens: of a request.
        output_tokens: of the small model's answer.
        large_output_tokens: of the large model's answer; as the small one's when not given.
        busy_s: seconds that the small model computes for a draft, its prompt included.
        tokens_per_s: instead of `busy_s`, how fast it writes.
        prompt_tokens_per_s: how fast it reads; `READS_FASTER` times its writing when not given.
        check_calls: calls of the self-check per draft; log-probs need none.
        check_usd: dollars of the self-check per draft, instead of pricing its calls.
        accept_rate: expected share of accepted drafts, a.
        accept_n: on how many examples it was seen; gives every figure its interval.
        requests_per_month: for the bill.
        purchase_usd: machine, training and set-up, paid once.
        months: over which the purchase is written off.
        maintenance_hours: of a person, per month.
        hour_usd: what such an hour costs.

    Raises:
        ConfigurationError: a value is out of range, or does not go with another; it is named.
    """

    small: Price | ListPrice
    large: Price | ListPrice
    input_tokens: Count
    output_tokens: Count
    large_output_tokens: Count | None = None
    busy_s: Amount | None = None
    tokens_per_s: Positive | None = None
    prompt_tokens_per_s: Positive | None = None
    check_calls: Count = 0
    check_usd: Amount | None = None
    accept_rate: Annotated[Decimal, Field(ge=0, le=1)] | None = None
    accept_n: Annotated[int, Field(ge=1)] | None = None
    requests_per_month: Amount | None = None
    purchase_usd: Amount = Decimal(0)
    months: Positive = Decimal(36)
    maintenance_hours: Amount = Decimal(0)
    hour_usd: Amount | None = None

    if not TYPE_CHECKING:  # type checkers know the fields from their annotations

        def __init__(self, **values: object) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                said = str(first["msg"]).removeprefix("Value error, ")
                name = f"{first['loc'][0]}={first['input']!s}: " if first["loc"] else ""
                raise ConfigurationError(f"{name}{said}.") from error

    @model_validator(mode="after")
    def _consistent(self) -> PlanInputs:
        for given, needed in _TOGETHER.items():
            if getattr(self, given) and getattr(self, needed) is None:
                raise ValueError(f"{given}={getattr(self, given)} needs {needed} too")
        if self.busy_s is not None and self.tokens_per_s is not None:
            raise ValueError(
                f"busy_s={self.busy_s} and tokens_per_s={self.tokens_per_s} say the same twice: "
                "give one of them"
            )
        return self

    @property
    def fixed_usd(self) -> Decimal:
        """Dollars a month before the first request: purchase ÷ months + hours × rate."""
        hours = self.maintenance_hours * (self.hour_usd or Decimal(0))
        return self.purchase_usd / self.months + hours

    def small_usd(self, input_tokens: int, output_tokens: int) -> Decimal:
        """Dollars of a call of the small model.

        Raises:
            ConfigurationError: the price is by the hour and no speed is given.
        """
        busy = self.busy_s
        if self.tokens_per_s is not None:
            reads = self.prompt_tokens_per_s or READS_FASTER * self.tokens_per_s
            busy = output_tokens / self.tokens_per_s + input_tokens / reads
        usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
        cost = self.small.cost(usage, None if busy is None else float(busy * 1000))
        if cost is None:
            raise ConfigurationError(
                "the small model is priced per busy hour: give busy_s, the seconds that it "
                "computes for a draft, or tokens_per_s."
            )
        return cost

    @property
    def large_usd(self) -> Decimal:
        """c_L: dollars of a large answer.

        Raises:
            ConfigurationError: the price is by the hour, or nothing.
        """
        output = self.large_output_tokens
        output = self.output_tokens if output is None else output
        cost = self.large.cost(Usage(input_tokens=self.input_tokens, output_tokens=output))
        if cost is None:
            raise ConfigurationError(
                "the price of the large model is per hour: give it per token, Price(input=…, "
                "output=…)."
            )
        if cost == 0:
            raise ConfigurationError(
                "the large model costs $0 per request: there is nothing to save. Set its price."
            )
        return cost


class Range(Record):
    """A figure, with its 95 % interval where the accept rate has one."""

    value: Decimal
    low: Decimal | None = None
    high: Decimal | None = None

    def map(self, function: Callable[[Decimal], Decimal]) -> Range:
        """A monotone function of it, ends in order."""
        if self.low is None or self.high is None:
            return Range(value=function(self.value))
        low, high = sorted((function(self.low), function(self.high)))
        return Range(value=function(self.value), low=low, high=high)


class Plan(Record):
    """What a cascade would cost and save; dollars per request where nothing else is said.

    Attributes:
        draft_usd: c_S.
        check_usd: c_V.
        large_usd: c_L.
        cost_ratio: r = (c_S + c_V)/c_L; it saves above this accept rate, and never from 1 on.
        accept_rate: a, with its Wilson interval.
        relative_cost: r + (1 − a), the cost as a share of the large model alone.
        saved_per_1000_usd: 1000·(a·c_L − c_S − c_V), fixed cost not counted.
        fixed_usd: what a month costs before the first request.
        from_requests: requests a month from which on that is paid for; None if never.
        monthly_usd: (large model alone, cascade with all costs) for `requests_per_month`.
        verdict: in one word; fixed cost counts where the requests are given.
        sentence: for people.
    """

    inputs: PlanInputs
    draft_usd: Decimal
    check_usd: Decimal
    large_usd: Decimal
    cost_ratio: Decimal
    accept_rate: Range | None = None
    relative_cost: Range | None = None
    saved_per_1000_usd: Range | None = None
    fixed_usd: Decimal
    from_requests: int | None = None
    monthly_usd: tuple[Decimal, Decimal | None] | None = None
    verdict: Verdict = "open"
    sentence: str = ""


def plan(inputs: PlanInputs) -> Plan:
    """Work out what a cascade costs and saves on these figures.

    Raises:
        ConfigurationError: a price is unknown, or the large model costs nothing.
    """
    draft = inputs.small_usd(inputs.input_tokens, inputs.output_tokens)
    check, large = inputs.check_usd, inputs.large_usd
    if check is None:
        # It reads the question and the draft, and writes one word.
        read = inputs.input_tokens + inputs.output_tokens + CHECK_QUESTION_TOKENS
        each = inputs.small_usd(read, CHECK_ANSWER_TOKENS) if inputs.check_calls else Decimal(0)
        check = inputs.check_calls * each
    ratio, fixed, requests = (draft + check) / large, inputs.fixed_usd, inputs.requests_per_month
    known: dict[str, object] = {}
    if requests is not None:
        known["monthly_usd"] = requests * large, None
    accept = _accept_rate(inputs)
    if accept is not None:
        saved = accept.map(lambda a: a * large - draft - check)
        known |= {
            "accept_rate": accept,
            "relative_cost": accept.map(lambda a: ratio + 1 - a),
            "saved_per_1000_usd": saved.map(lambda usd: 1000 * usd),
        }
        if saved.value > 0:
            known["from_requests"] = math.ceil(fixed / saved.value)
        if requests is not None:
            known["monthly_usd"] = requests * large, requests * (large - saved.value) + fixed
    found = Plan(
        inputs=inputs,
        draft_usd=draft,
        check_usd=check,
        large_usd=large,
        cost_ratio=ratio,
        fixed_usd=fixed,
    ).model_copy(update=known)
    found = found.model_copy(update={"verdict": _verdict(found)})
    return found.model_copy(update={"sentence": _sentence(found)})


def _accept_rate(inputs: PlanInputs) -> Range | None:
    if inputs.accept_rate is None or inputs.accept_n is None:
        return None if inputs.accept_rate is None else Range(value=inputs.accept_rate)
    low, high = wilson(float(inputs.accept_rate), inputs.accept_n)
    return Range(value=inputs.accept_rate, low=Decimal(str(low)), high=Decimal(str(high)))


def _verdict(found: Plan) -> Verdict:
    if found.cost_ratio >= 1:
        return "never"
    saved, requests = found.saved_per_1000_usd, found.inputs.requests_per_month
    if saved is None:
        return "open"
    if requests is not None:
        saved = saved.map(lambda usd: usd * requests / 1000 - found.fixed_usd)
    low, high = (saved.value if end is None else end for end in (saved.low, saved.high))
    if high <= 0:
        return "loses"
    return "saves" if low > 0 else "uncertain"


# Words ----------------------------------------------------------------------------------------


def _sentence(found: Plan) -> str:
    ratio, fixed = percent(found.cost_ratio), f"{dollars(found.fixed_usd)} a month"
    accept, saved = _shown(found.accept_rate, "share"), _shown(found.saved_per_1000_usd, "usd")
    loses = (
        f"It loses money: an accept rate of {accept} is not above the {ratio} from which it saves. "
        "Switch it off."
    )
    if found.from_requests is not None:
        loses = f"It loses money: {saved} saved per 1,000 requests do not pay for the fixed cost."
    said = {
        "never": f"Never: draft and check cost {ratio} of a large answer, so a cascade loses money "
        "at every accept rate. Use the large model alone, or a cheaper small one.",
        "open": f"It saves from an accept rate of {ratio} on; below, switch it off.",
        "saves": f"It saves {saved} per 1,000 requests: an accept rate of {accept} is above the "
        f"{ratio} that draft and check cost of a large answer.",
        "loses": loses,
        "uncertain": f"It cannot be told yet: {saved} per 1,000 requests, and the interval, all "
        "costs counted, holds both a saving and a loss. Measure the accept rate on more examples.",
    }[found.verdict]
    if not found.fixed_usd or found.accept_rate is None:
        return said
    if found.from_requests is None:
        return f"{said} No number of requests pays for its {fixed}."
    needed = f"{found.from_requests:,} requests a month"
    return f"{said} With {fixed} of fixed cost it saves from {needed} on."


def _figure(found: Range | None, unit: Unit) -> Figure:
    return Figure(None, unit) if found is None else Figure(found.value, unit, found.low, found.high)


def _shown(found: Range | None, unit: Unit) -> str:
    return words(_figure(found, unit))


def to_document(found: Plan) -> Document:
    """The plan with its figures and what they rest on."""
    given = found.inputs
    rows: list[tuple[Cell, ...]] = [
        ("draft, c_S", Figure(found.draft_usd, "usd"), given.small.source),
        ("self-check, c_V", Figure(found.check_usd, "usd"), "per draft"),
        ("large model, c_L", Figure(found.large_usd, "usd"), given.large.source),
        ("cost ratio r = (c_S + c_V) / c_L", Figure(found.cost_ratio, "share"), "saves above"),
    ]
    if found.accept_rate is not None:
        rows += [
            ("accept rate", _figure(found.accept_rate, "share"), "expected"),
            ("cost", _figure(found.relative_cost, "share"), "of the large model alone"),
            ("saved per 1,000 requests", _figure(found.saved_per_1000_usd, "usd"), ""),
        ]
    if found.fixed_usd:
        rows.append(("fixed cost", Figure(found.fixed_usd, "usd"), "a month"))
    if found.monthly_usd is not None:
        alone, spent = found.monthly_usd
        requests = f"a month for {given.requests_per_month:,f} requests"
        rows += [
            ("large model alone", Figure(alone, "usd"), requests),
            ("cascade, all costs", Figure(spent, "usd"), "a month"),
        ]
    tones: Mapping[Verdict, Tone] = {"saves": "good", "loses": "bad", "never": "bad"}
    assumed = (
        f"Assumed: the small model reads {READS_FASTER} times faster than it writes. Give "
        "prompt_tokens_per_s to plan with its own speed."
    )
    guessed = given.tokens_per_s is not None and given.prompt_tokens_per_s is None
    return Document(
        title="Whether a cascade can pay",
        sentence=found.sentence,
        tables=(Table("Per request", ("", "", ""), tuple(rows)),),
        facts=(Fact("saves from an accept rate of", Figure(found.cost_ratio, "share")),),
        notes=(assumed,) if guessed else (),
        tone=tones.get(found.verdict, "open"),
    )
