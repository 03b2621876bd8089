"""A plan in plain words: the verdict first, then the figures and what they rest on."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from cascade.evaluation.plan.figures import Interval, Plan

PER_CENT = Decimal(100)


def render(plan: Plan) -> str:
    """The whole plan as text of two columns under its verdict."""
    rows = [*_rows(plan)]
    width = max(len(name) for name, _ in rows)
    table = "\n".join(f"{name:<{width}}  {figure}" for name, figure in rows)
    return f"{verdict(plan)}\n\n{table}"


def verdict(plan: Plan) -> str:
    """What to do about it, in one or more sentences."""
    return " ".join([_VERDICTS[plan.verdict](plan), *_remarks(plan)])


def _never(plan: Plan) -> str:
    if plan.break_even_accept_rate is None:
        return (
            f"Never: draft and check cost {_share(plan.cost_ratio)} of a large answer, so a "
            "cascade loses money at every accept rate. Use the large model alone, or a cheaper "
            "small one."
        )
    assert plan.harm is not None, "only a bound on harm forbids what the prices allow"
    return (
        f"Never under this bound: at a harm of at most {_share(plan.inputs.max_harm)} even perfect "
        f"confidence accepts no more than {_share(plan.harm.largest_accept_rate)}, and the cascade "
        f"saves only above {_share(plan.cost_ratio)}."
    )


def _open(plan: Plan) -> str:
    return f"It saves from an accept rate of {_share(plan.cost_ratio)} on; below, switch it off."


def _saves(plan: Plan) -> str:
    return (
        f"It saves {_usd(plan.saved_per_1000_usd)} per 1,000 requests: an accept rate of "
        f"{_shares(plan.accept_rate)} is above the {_share(plan.cost_ratio)} that draft and check "
        "cost of a large answer."
    )


def _loses(plan: Plan) -> str:
    if plan.saved_per_1000_usd is not None and plan.saved_per_1000_usd.value > 0:
        return (
            f"It loses money: {_usd(plan.saved_per_1000_usd)} saved per 1,000 requests do not "
            "pay for the fixed cost."
        )
    return (
        f"It loses money: an accept rate of {_shares(plan.accept_rate)} is not above the "
        f"{_share(plan.cost_ratio)} from which it saves. Switch it off."
    )


def _uncertain(plan: Plan) -> str:
    return (
        f"It cannot be told yet: {_usd(plan.saved_per_1000_usd)} per 1,000 requests, and the "
        "interval, all costs counted, holds both a saving and a loss. Measure the accept rate on "
        "more examples."
    )


_VERDICTS = {
    "never": _never,
    "open": _open,
    "saves": _saves,
    "loses": _loses,
    "uncertain": _uncertain,
}


def _remarks(plan: Plan) -> Iterator[str]:
    bill = plan.bill
    if bill is not None and bill.fixed_usd:
        if bill.from_requests is not None:
            yield (
                f"With {_dollars(bill.fixed_usd)} a month of fixed cost it saves from "
                f"{_count(bill.from_requests)} requests a month on."
            )
        elif plan.accept_rate is not None:
            yield f"No number of requests pays for its {_dollars(bill.fixed_usd)} a month."
    if plan.harm is not None and plan.harm.forced_escalation > 0:
        yield (
            f"A harm of at most {_share(plan.inputs.max_harm)} forces at least "
            f"{_share(plan.harm.forced_escalation)} of the requests to escalate, whatever the "
            "confidence."
        )


def _rows(plan: Plan) -> Iterator[tuple[str, str]]:
    yield "draft, c_S", f"{_dollars(plan.draft_usd)} per request, {plan.inputs.small.source}"
    yield "self-check, c_V", f"{_dollars(plan.check_usd)} per draft"
    yield "large model, c_L", f"{_dollars(plan.large_usd)} per request, {plan.inputs.large.source}"
    yield "cost ratio r = (c_S + c_V) / c_L", f"{plan.cost_ratio:.4f}"
    threshold = plan.break_even_accept_rate
    yield "break-even accept rate", "never" if threshold is None else f"above {_share(threshold)}"
    if plan.accept_rate is not None:
        yield "expected accept rate", _shares(plan.accept_rate)
        yield "cost relative to the large model", _shares(plan.relative_cost)
        yield "saved per 1,000 requests", _usd(plan.saved_per_1000_usd)
    yield from _latency_rows(plan)
    yield from _bill_rows(plan)
    if plan.harm is not None:
        harm = plan.harm
        yield (
            "escalations forced by the bound",
            f"{_share(harm.forced_escalation)}; {_share(harm.forced_escalation_conditional)} if "
            "it is to hold among the accepted",
        )
        yield "labels that can certify it", f"{harm.labels_needed:,} at least, without one error"


def _latency_rows(plan: Plan) -> Iterator[tuple[str, str]]:
    latency = plan.latency
    if latency is None:
        return
    yield "wait when escalated", _seconds(latency.escalated_added_s)
    yield "wait when accepted", _seconds(-latency.accepted_saved_s)
    if latency.mean_change_s is not None:
        yield "wait on average", _seconds(latency.mean_change_s)
    threshold = latency.break_even_accept_rate
    yield (
        "faster on average",
        "never" if threshold is None else f"from an accept rate of {_share(threshold)} on",
    )


def _bill_rows(plan: Plan) -> Iterator[tuple[str, str]]:
    bill = plan.bill
    if bill is None:
        return
    yield "fixed cost", f"{_dollars(bill.fixed_usd)} a month"
    if bill.large_only_usd is not None:
        requests = f"{plan.inputs.requests_per_month:,f} requests"
        yield "large model alone", f"{_dollars(bill.large_only_usd)} a month for {requests}"
    if bill.cascade_usd is not None and bill.saved_usd is not None:
        yield "cascade, all costs", f"{_dollars(bill.cascade_usd)} a month"
        yield "saved", f"{_dollars(bill.saved_usd)} a month"


def _share(share: Decimal | None) -> str:
    assert share is not None, "asked only where it is known"
    return f"{share * PER_CENT:.1f} %"


def _shares(interval: Interval | None) -> str:
    assert interval is not None, "asked only where it is known"
    if interval.low is None or interval.high is None:
        return _share(interval.value)
    return f"{_share(interval.value)} ({_share(interval.low)} to {_share(interval.high)})"


def _usd(interval: Interval | None) -> str:
    assert interval is not None, "asked only where it is known"
    if interval.low is None or interval.high is None:
        return _dollars(interval.value)
    return f"{_dollars(interval.value)} ({_dollars(interval.low)} to {_dollars(interval.high)})"


def _count(interval: Interval) -> str:
    if interval.low is None:
        return f"{interval.value:,f}"
    most = "never" if interval.high is None else f"{interval.high:,f}"
    return f"{interval.value:,f} ({interval.low:,f} to {most})"


def _dollars(amount: Decimal) -> str:
    sign = "−" if amount < 0 else ""
    # Cents from a dollar on; less keeps three digits, since little is not nothing.
    places = 2 if abs(amount) >= 1 or not amount else min(12, 2 - amount.adjusted())
    return f"{sign}${abs(amount):,.{places}f}"


def _seconds(seconds: Decimal) -> str:
    return f"{abs(seconds):.2f} s {'longer' if seconds > 0 else 'shorter'}"
