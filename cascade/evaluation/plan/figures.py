"""Whether a cascade can pay, from prices and an expected accept rate; nothing is called.

With c_S, c_V and c_L the dollars of a draft, its check and a large answer, and a the share of
drafts that is accepted, a request costs c_S + c_V + (1 − a)·c_L. Relative to the large model alone
that is r + (1 − a) with r = (c_S + c_V)/c_L: a cascade saves only if a > r, and never if r ≥ 1
(docs/plan.md; the counter-evidence is "Is Escalation Worth It?", arXiv 2605.06350).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import ROUND_CEILING, Decimal
from typing import Literal

from cascade.errors import ConfigurationError
from cascade.evaluation.plan.inputs import PlanInputs
from cascade.evaluation.shares import wilson
from cascade.ledger.prices.base import to_finest
from cascade.state import Record

Verdict = Literal["saves", "loses", "uncertain", "open", "never"]
"""`open`: it depends on an accept rate that was not given. `uncertain`: its interval says both."""


class Interval(Record):
    """A figure, with its 95 % interval where the accept rate has one."""

    value: Decimal
    low: Decimal | None = None
    high: Decimal | None = None


class LatencyPlan(Record):
    """Seconds of waiting, compared with the large model alone.

    Attributes:
        escalated_added_s: what an escalated request waits longer: draft and check, t_S.
        accepted_saved_s: what an accepted one waits less: t_L − t_S; negative for longer.
        mean_change_s: t_S − a·t_L, over all requests; None without an accept rate.
        break_even_accept_rate: t_S/t_L, above which the mean wait becomes shorter; None if never.
    """

    escalated_added_s: Decimal
    accepted_saved_s: Decimal
    mean_change_s: Decimal | None
    break_even_accept_rate: Decimal | None


class BillPlan(Record):
    """A month of owning the small model, against the bill of the large one alone.

    Attributes:
        fixed_usd: what the month costs before the first request.
        from_requests: requests a month from which on the cascade saves; None if never, or
            without an accept rate. With the interval of the accept rate, low is the least.
        large_only_usd: the large model alone for `requests_per_month`; None without that number.
        cascade_usd: drafts, checks, escalations and the fixed cost; None without an accept rate.
        saved_usd: the difference.
    """

    fixed_usd: Decimal
    from_requests: Interval | None = None
    large_only_usd: Decimal | None = None
    cascade_usd: Decimal | None = None
    saved_usd: Decimal | None = None


class HarmPlan(Record):
    """What a bound α on harm, P(accepted and wrong), leaves possible when a share μ is wrong.

    Attributes:
        forced_escalation: μ − α: even perfect confidence has to escalate this share.
        forced_escalation_conditional: (μ − α)/(1 − α): the share if α is to bound the errors
            among the accepted answers (arXiv 2606.29054), which is stricter.
        largest_accept_rate: 1 − forced_escalation.
        labels_needed: the fewest labelled examples that can certify α with 90 % confidence:
            those without one error, n ≥ ln 0.1 / ln(1 − α).
    """

    forced_escalation: Decimal
    forced_escalation_conditional: Decimal
    largest_accept_rate: Decimal
    labels_needed: int


class Plan(Record):
    """What a cascade would cost and save; dollars per request where nothing else is said.

    Attributes:
        draft_usd: c_S.
        check_usd: c_V.
        large_usd: c_L.
        cost_ratio: r = (c_S + c_V)/c_L.
        break_even_accept_rate: r, above which the cascade saves; None if r ≥ 1: never.
        accept_rate: a, with its Wilson interval.
        relative_cost: r + (1 − a), the cost as a share of the large model alone.
        saved_per_1000_usd: 1000·(a·c_L − c_S − c_V), fixed cost not counted.
        verdict: in one word; `bill` and `harm` count as far as they are given.
    """

    inputs: PlanInputs
    draft_usd: Decimal
    check_usd: Decimal
    large_usd: Decimal
    cost_ratio: Decimal
    break_even_accept_rate: Decimal | None
    accept_rate: Interval | None
    relative_cost: Interval | None
    saved_per_1000_usd: Interval | None
    latency: LatencyPlan | None
    bill: BillPlan | None
    harm: HarmPlan | None
    verdict: Verdict

    @property
    def attainable(self) -> bool:
        """Whether some accept rate saves that the bound on harm allows."""
        if self.break_even_accept_rate is None:
            return False
        return self.harm is None or self.harm.largest_accept_rate > self.break_even_accept_rate


def plan(inputs: PlanInputs) -> Plan:
    """Work out what a cascade costs and saves on these figures.

    Raises:
        ConfigurationError: a price is unknown, or the large model costs nothing.
    """
    draft, check = inputs.draft_cost_usd(), inputs.check_cost_usd()
    large = inputs.large_cost_usd()
    if large == 0:
        raise ConfigurationError(
            "the large model costs $0 per request: there is nothing to save. Set its price."
        )
    ratio = (draft + check) / large
    accept = _accept_rate(inputs)
    saved = None if accept is None else _map(accept, lambda a: to_finest(a * large - draft - check))
    bill = _bill(inputs, large, saved)
    found = Plan(
        inputs=inputs,
        draft_usd=draft,
        check_usd=check,
        large_usd=large,
        cost_ratio=ratio,
        break_even_accept_rate=ratio if ratio < 1 else None,
        accept_rate=accept,
        relative_cost=None if accept is None else _map(accept, lambda a: ratio + 1 - a),
        saved_per_1000_usd=None if saved is None else _map(saved, lambda usd: 1000 * usd),
        latency=_latency(inputs),
        bill=bill,
        harm=_harm(inputs),
        verdict="open",
    )
    return found.model_copy(update={"verdict": _verdict(found)})


def _accept_rate(inputs: PlanInputs) -> Interval | None:
    if inputs.accept_rate is None:
        return None
    if inputs.accept_n is None:
        return Interval(value=inputs.accept_rate)
    low, high = wilson(float(inputs.accept_rate), inputs.accept_n)
    return Interval(value=inputs.accept_rate, low=_decimal(low), high=_decimal(high))


def _map(interval: Interval, function: Callable[[Decimal], Decimal]) -> Interval:
    """A monotone function of an interval, ends in order."""
    if interval.low is None or interval.high is None:
        return Interval(value=function(interval.value))
    low, high = sorted((function(interval.low), function(interval.high)))
    return Interval(value=function(interval.value), low=low, high=high)


def _latency(inputs: PlanInputs) -> LatencyPlan | None:
    small, large = inputs.small_seconds(), inputs.large_s
    if small is None or large is None:
        return None
    accept = inputs.accept_rate
    return LatencyPlan(
        escalated_added_s=small,
        accepted_saved_s=large - small,
        mean_change_s=None if accept is None else small - accept * large,
        break_even_accept_rate=small / large if small < large else None,
    )


def _bill(inputs: PlanInputs, large: Decimal, saved: Interval | None) -> BillPlan | None:
    fixed, requests = inputs.ownership.monthly_usd(), inputs.requests_per_month
    if fixed == 0 and requests is None:
        return None
    bill = BillPlan(fixed_usd=fixed)
    if saved is not None and saved.value > 0:
        bill = bill.model_copy(update={"from_requests": _from_requests(fixed, saved)})
    if requests is None:
        return bill
    alone = to_finest(requests * large)
    known = {"large_only_usd": alone}
    if saved is not None:
        monthly = to_finest(requests * saved.value) - fixed
        known |= {"saved_usd": monthly, "cascade_usd": alone - monthly}
    return bill.model_copy(update=known)


def _from_requests(fixed: Decimal, saved: Interval) -> Interval:
    def needed(each: Decimal | None) -> Decimal | None:
        if each is None or each <= 0:
            return None
        return (fixed / each).to_integral_value(ROUND_CEILING)

    value = needed(saved.value)
    assert value is not None, "asked only where a request saves something"
    return Interval(value=value, low=needed(saved.high), high=needed(saved.low))


def _harm(inputs: PlanInputs) -> HarmPlan | None:
    wrong, bound = inputs.draft_error, inputs.max_harm
    if wrong is None or bound is None:
        return None
    forced = max(Decimal(0), wrong - bound)
    return HarmPlan(
        forced_escalation=forced,
        forced_escalation_conditional=forced / (1 - bound),
        largest_accept_rate=1 - forced,
        labels_needed=math.ceil(math.log(0.1) / math.log1p(-float(bound))),
    )


def _verdict(found: Plan) -> Verdict:
    if not found.attainable:
        return "never"
    saved, bill = found.saved_per_1000_usd, found.bill
    if saved is None:
        return "open"
    scale = Decimal(1)
    fixed = Decimal(0)
    if bill is not None and found.inputs.requests_per_month is not None:
        scale, fixed = found.inputs.requests_per_month / 1000, bill.fixed_usd
    low, high = (
        (saved.value if end is None else end) * scale - fixed for end in (saved.low, saved.high)
    )
    if high <= 0:
        return "loses"
    return "saves" if low > 0 else "uncertain"


def _decimal(value: float) -> Decimal:
    return Decimal(str(value))
