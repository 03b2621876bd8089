"""Whether a cascade can pay, from prices and an expected accept rate; nothing is called.

With c_S, c_V and c_L the dollars of a draft, its check and a large answer, and a the share of
drafts that is accepted, a request costs c_S + c_V + (1 − a)·c_L. Relative to the large model alone
that is r + (1 − a) with r = (c_S + c_V)/c_L: a cascade saves only if a > r, and never if r ≥ 1
(the counter-evidence is "Is Escalation Worth It?", arXiv 2605.06350).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from cascade.errors import ConfigurationError
from cascade.evaluation.audit import wilson
from cascade.evaluation.render import (
    Cell,
    Document,
    Fact,
    Figure,
    Number,
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

HOURS_PER_MONTH = Decimal(730)

Amount = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[Decimal, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[Decimal, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]

Verdict = Literal["saves", "loses", "uncertain", "open", "never"]
"""`open`: it depends on an accept rate that was not given. `uncertain`: its interval says both."""


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
        small_s: seconds until a draft is there and checked; its busy time when not given.
        large_s: seconds until a large answer is there.
        requests_per_month: for the bill.
        purchase_usd: machine, training and set-up, paid once.
        months: over which the purchase is written off.
        maintenance_hours: of a person, per month.
        hour_usd: what such an hour costs.
        standby_kw: what the machine draws all month long, used or not.
        kwh_usd: price of power.
        draft_error: share of drafts that are wrong, μ.
        max_harm: bound on P(accepted and wrong), α.

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
    accept_rate: Share | None = None
    accept_n: Annotated[int, Field(ge=1)] | None = None
    small_s: Amount | None = None
    large_s: Positive | None = None
    requests_per_month: Amount | None = None
    purchase_usd: Amount = Decimal(0)
    months: Positive = Decimal(36)
    maintenance_hours: Amount = Decimal(0)
    hour_usd: Amount = Decimal(0)
    standby_kw: Amount = Decimal(0)
    kwh_usd: Amount = Decimal(0)
    draft_error: Share | None = None
    max_harm: Annotated[Decimal, Field(gt=0, lt=1)] | None = None

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
        together: Mapping[str, str] = {
            "accept_n": "accept_rate",
            "prompt_tokens_per_s": "tokens_per_s",
            "draft_error": "max_harm",
            "max_harm": "draft_error",
            "maintenance_hours": "hour_usd",
            "standby_kw": "kwh_usd",
        }
        priced = ("hour_usd", "kwh_usd")
        for given, needed in together.items():
            has = getattr(self, needed) if needed in priced else getattr(self, needed) is not None
            if getattr(self, given) and not has:
                raise ValueError(f"{given}={getattr(self, given)} needs {needed} too")
        if self.busy_s is not None and self.tokens_per_s is not None:
            raise ValueError(
                f"busy_s={self.busy_s} and tokens_per_s={self.tokens_per_s} say the same twice: "
                "give one of them"
            )
        return self

    def fixed_usd(self) -> Decimal:
        """Dollars a month before the first request: purchase ÷ months + hours × rate + power."""
        power = self.standby_kw * HOURS_PER_MONTH * self.kwh_usd
        return self.purchase_usd / self.months + self.maintenance_hours * self.hour_usd + power

    def small_usd(self, input_tokens: int, output_tokens: int) -> Decimal:
        """Dollars of a call of the small model.

        Raises:
            ConfigurationError: the price is by the hour and no speed is given.
        """
        busy = self.busy(input_tokens, output_tokens)
        usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
        cost = self.small.cost(usage, None if busy is None else float(busy * 1000))
        if cost is None:
            raise ConfigurationError(
                "the small model is priced per busy hour: give busy_s, the seconds that it "
                "computes for a draft, or tokens_per_s."
            )
        return cost

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

    def busy(self, input_tokens: int, output_tokens: int) -> Decimal | None:
        """Seconds that the small model reads and writes; None where no speed is known."""
        if self.tokens_per_s is None:
            return self.busy_s
        reads = self.prompt_tokens_per_s or READS_FASTER * self.tokens_per_s
        return output_tokens / self.tokens_per_s + input_tokens / reads

    def check_tokens(self) -> tuple[int, int]:
        """Read and written by a call of the self-check: question and draft, and one word."""
        return self.input_tokens + self.output_tokens + CHECK_QUESTION_TOKENS, CHECK_ANSWER_TOKENS

    def small_seconds(self) -> Decimal | None:
        """t_S: seconds until a draft is there and checked; None where nobody knows."""
        draft, check = (
            self.busy(self.input_tokens, self.output_tokens),
            self.busy(*self.check_tokens()),
        )
        if self.small_s is not None or draft is None or check is None:
            return self.small_s
        return draft + self.check_calls * check


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
        wait_escalated_s, wait_accepted_s: seconds longer than with the large model alone;
            negative for shorter. None where no time is known.
        fixed_usd: what a month costs before the first request.
        from_requests: requests a month from which on that is paid for; None if never.
        monthly_usd: (large model alone, cascade with all costs) for `requests_per_month`.
        forced: with a bound α on harm, P(accepted and wrong), and a share μ of wrong drafts: the
            share μ − α that even perfect confidence has to escalate; (μ − α)/(1 − α) of it where
            α is to bound the errors among the accepted (arXiv 2606.29054).
        verdict: in one word; fixed cost and bound on harm count as far as they are given.
        sentence: for people.
    """

    inputs: PlanInputs
    draft_usd: Decimal
    check_usd: Decimal
    large_usd: Decimal
    cost_ratio: Decimal
    accept_rate: Range | None
    relative_cost: Range | None
    saved_per_1000_usd: Range | None
    wait_escalated_s: Decimal | None
    wait_accepted_s: Decimal | None
    fixed_usd: Decimal
    from_requests: Range | None
    monthly_usd: tuple[Decimal, Decimal | None] | None
    forced: Decimal | None
    verdict: Verdict
    sentence: str = ""


def plan(inputs: PlanInputs) -> Plan:
    """Work out what a cascade costs and saves on these figures.

    Raises:
        ConfigurationError: a price is unknown, or the large model costs nothing.
    """
    draft = inputs.small_usd(inputs.input_tokens, inputs.output_tokens)
    check, large = inputs.check_usd, inputs.large_usd()
    if check is None:
        each = inputs.small_usd(*inputs.check_tokens()) if inputs.check_calls else Decimal(0)
        check = inputs.check_calls * each
    ratio = (draft + check) / large
    accept = _accept_rate(inputs)
    saved = None if accept is None else accept.map(lambda a: a * large - draft - check)
    wait, fixed, requests = inputs.small_seconds(), inputs.fixed_usd(), inputs.requests_per_month
    timed = wait is not None and inputs.large_s is not None
    monthly = None
    if requests is not None:
        spent = None if saved is None else requests * (large - saved.value) + fixed
        monthly = requests * large, spent
    found = Plan(
        inputs=inputs,
        draft_usd=draft,
        check_usd=check,
        large_usd=large,
        cost_ratio=ratio,
        accept_rate=accept,
        relative_cost=None if accept is None else accept.map(lambda a: ratio + 1 - a),
        saved_per_1000_usd=None if saved is None else saved.map(lambda usd: 1000 * usd),
        wait_escalated_s=wait if timed else None,
        wait_accepted_s=wait - inputs.large_s if wait is not None and inputs.large_s else None,
        fixed_usd=fixed,
        from_requests=_from_requests(fixed, saved),
        monthly_usd=monthly,
        forced=_forced(inputs),
        verdict="open",
    )
    found = found.model_copy(update={"verdict": _verdict(found)})
    return found.model_copy(update={"sentence": " ".join(_sentences(found))})


def _accept_rate(inputs: PlanInputs) -> Range | None:
    if inputs.accept_rate is None or inputs.accept_n is None:
        return None if inputs.accept_rate is None else Range(value=inputs.accept_rate)
    low, high = wilson(float(inputs.accept_rate), inputs.accept_n)
    return Range(value=inputs.accept_rate, low=Decimal(str(low)), high=Decimal(str(high)))


def _from_requests(fixed: Decimal, saved: Range | None) -> Range | None:
    if saved is None or saved.value <= 0:
        return None

    def needed(each: Decimal | None) -> Decimal | None:
        if each is None or each <= 0:
            return None
        return (fixed / each).to_integral_value(ROUND_CEILING)

    return Range(
        value=(fixed / saved.value).to_integral_value(ROUND_CEILING),
        low=needed(saved.high),
        high=needed(saved.low),
    )


def _forced(inputs: PlanInputs) -> Decimal | None:
    if inputs.draft_error is None or inputs.max_harm is None:
        return None
    return max(Decimal(0), inputs.draft_error - inputs.max_harm)


def _verdict(found: Plan) -> Verdict:
    if found.cost_ratio >= 1 - (found.forced or 0):
        return "never"
    saved = found.saved_per_1000_usd
    if saved is None:
        return "open"
    scale, fixed = Decimal(1), Decimal(0)
    if found.inputs.requests_per_month is not None:
        scale, fixed = found.inputs.requests_per_month / 1000, found.fixed_usd
    low, high = (
        (saved.value if end is None else end) * scale - fixed for end in (saved.low, saved.high)
    )
    if high <= 0:
        return "loses"
    return "saves" if low > 0 else "uncertain"


# Words ----------------------------------------------------------------------------------------


def _sentences(found: Plan) -> list[str]:
    ratio, bound = percent(found.cost_ratio), percent(found.inputs.max_harm)
    accept, saved = _shown(found.accept_rate, "share"), _shown(found.saved_per_1000_usd, "usd")
    said = [
        {
            "never": f"Never: draft and check cost {ratio} of a large answer, so a cascade loses "
            "money at every accept rate. Use the large model alone, or a cheaper small one.",
            "open": f"It saves from an accept rate of {ratio} on; below, switch it off.",
            "saves": f"It saves {saved} per 1,000 requests: an accept rate of {accept} is above "
            f"the {ratio} that draft and check cost of a large answer.",
            "loses": f"It loses money: an accept rate of {accept} is not above the {ratio} from "
            "which it saves. Switch it off.",
            "uncertain": f"It cannot be told yet: {saved} per 1,000 requests, and the interval, "
            "all costs counted, holds both a saving and a loss. Measure the accept rate on more "
            "examples.",
        }[found.verdict]
    ]
    if found.verdict == "never" and found.forced is not None and found.cost_ratio < 1:
        most = percent(1 - found.forced)
        said = [
            f"Never under this bound: at a harm of at most {bound} even perfect confidence "
            f"accepts no more than {most}, and the cascade saves only above {ratio}."
        ]
    if found.verdict == "loses" and found.from_requests is not None:
        said = [f"It loses money: {saved} saved per 1,000 requests do not pay for the fixed cost."]
    if found.fixed_usd and found.accept_rate is not None:
        a_month = f"{dollars(found.fixed_usd)} a month"
        if found.from_requests is None:
            said.append(f"No number of requests pays for its {a_month}.")
        else:
            needed = _shown(found.from_requests, "count")
            said.append(f"With {a_month} of fixed cost it saves from {needed} requests a month on.")
    if found.forced:
        said.append(
            f"A harm of at most {bound} forces at least {percent(found.forced)} of the "
            "requests to escalate, whatever the confidence."
        )
    return said


def _figure(found: Range | None, unit: Unit) -> Figure:
    return Figure(None, unit) if found is None else Figure(found.value, unit, found.low, found.high)


def _shown(found: Range | None, unit: Unit) -> str:
    return words(_figure(found, unit))


def _longer(seconds: Number) -> Cell:
    return f"{abs(seconds):.2f} s {'longer' if seconds > 0 else 'shorter'}"


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
    if found.wait_escalated_s is not None and found.wait_accepted_s is not None:
        rows += [
            ("wait when escalated", _longer(found.wait_escalated_s), ""),
            ("wait when accepted", _longer(found.wait_accepted_s), ""),
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
    if found.forced is not None and given.max_harm is not None:
        among = percent(found.forced / (1 - given.max_harm))
        labels = math.ceil(math.log(0.1) / math.log1p(-float(given.max_harm)))
        rows += [
            (
                "escalations forced by the bound",
                Figure(found.forced, "share"),
                f"{among} if it is to hold among the accepted",
            ),
            (
                "labels that can certify it",
                Figure(labels, "count"),
                "at least, without one error, with 90 % confidence",
            ),
        ]
    tones: Mapping[Verdict, Tone] = {"saves": "good", "loses": "bad", "never": "bad"}
    notes = []
    if given.tokens_per_s is not None and given.prompt_tokens_per_s is None:
        notes.append(
            f"Assumed: the small model reads {READS_FASTER} times faster than it writes. Give "
            "prompt_tokens_per_s to plan with its own speed."
        )
    return Document(
        title="Whether a cascade can pay",
        sentence=found.sentence,
        tables=(Table("Per request", ("", "", ""), tuple(rows)),),
        facts=(Fact("saves from an accept rate of", Figure(found.cost_ratio, "share")),),
        notes=tuple(notes),
        tone=tones.get(found.verdict, "open"),
    )
