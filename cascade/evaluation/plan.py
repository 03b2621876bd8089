"""Forecast of what a cascade costs and saves, from prices or recorded costs; no model is called.

With c_S, c_V and c_L the dollars of a draft, its check and a large answer, and a the share of
drafts that is accepted, a request costs c_S + c_V + (1 − a)·c_L. Relative to the large model alone
that is r + (1 − a) with r = (c_S + c_V)/c_L: a cascade saves only if a > r, and never if r ≥ 1
(the counter-evidence is "Is Escalation Worth It?", arXiv 2605.06350).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Literal

from cascade.errors import ConfigurationError
from cascade.evaluation.audit import wilson
from cascade.evaluation.render import Document, Fact, Figure, Table, dollars, words
from cascade.ledger.prices import ListPrice, Price
from cascade.state import Usage

CHECK_QUESTION_TOKENS, CHECK_ANSWER_TOKENS = 30, 4
"""Tokens of a self-check beyond the question and the draft, and room for its one word."""

Verdict = Literal["saves", "loses", "uncertain", "open", "never"]
"""`open`: it depends on an accept rate that was not given. `uncertain`: its interval says both."""

LINES: Mapping[str, tuple[str, str]] = {
    "draft_usd": ("draft, c_S", ""),
    "check_usd": ("self-check, c_V", "per draft"),
    "large_usd": ("large model, c_L", ""),
    "cost_ratio": ("cost ratio r = (c_S + c_V) / c_L", ""),
    "accept_rate": ("accept rate a", "expected"),
    "relative_cost": ("cost, r + 1 − a", "of the large model alone"),
    "saved_per_1000_usd": ("saved per 1,000 requests", "fixed cost not counted"),
    "fixed_usd": ("fixed cost", "a month"),
    "large_month_usd": ("large model alone", "a month"),
    "month_usd": ("cascade, all costs", "a month"),
}
"""Figures of a plan by name, with their labels and what they are of."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Forecast of cost and saving: those figures of `LINES` that can be told, per request where
    nothing else is said, the accept rate from which it saves, with a fixed cost where the requests
    are known, and from so many requests a month on that is paid for."""

    verdict: Verdict
    sentence: str
    figures: Mapping[str, Figure]
    break_even: Decimal
    from_requests: int | None = None


def plan(
    draft_usd: Decimal,
    large_usd: Decimal,
    *,
    check_usd: Decimal = Decimal(0),
    accept_rate: Decimal | None = None,
    accept_n: int | None = None,
    requests: Decimal | None = None,
    fixed_usd: Decimal = Decimal(0),
) -> Plan:
    """Forecast on these figures; the accept rate was seen on so many examples, and the requests and
    the fixed cost are those of a month, which count for the verdict where both are given."""
    if not large_usd:
        raise ConfigurationError(
            "the large model costs $0 per request: there is nothing to save. Set its price."
        )
    each, usd = draft_usd + check_usd, partial(Figure, unit="usd")
    ratio, starts = each / large_usd, None
    least = ratio + (fixed_usd / (requests * large_usd) if requests else 0)
    verdict: Verdict = "never" if (least if accept_rate is None else ratio) >= 1 else "open"
    figures = {"draft_usd": usd(draft_usd), "check_usd": usd(check_usd)}
    figures |= {"large_usd": usd(large_usd), "cost_ratio": Figure(ratio, "share")}
    figures |= {"fixed_usd": usd(fixed_usd)} if fixed_usd else {}
    if requests is not None:
        figures["large_month_usd"] = usd(requests * large_usd)
    if accept_rate is not None:
        accept, gained = Figure(accept_rate, "share"), accept_rate * large_usd - each
        if accept_n is not None:
            low, high = (Decimal(str(end)) for end in wilson(float(accept_rate), accept_n))
            accept = replace(accept, low=low, high=high, n=accept_n)
        net = saved = accept.map(lambda a: 1000 * (a * large_usd - each), "usd")
        starts = math.ceil(fixed_usd / gained) if gained > 0 else None
        figures |= {"accept_rate": accept, "relative_cost": accept.map(lambda a: ratio + 1 - a)}
        figures["saved_per_1000_usd"] = saved
        if requests is not None:
            figures["month_usd"] = usd(requests * (large_usd - gained) + fixed_usd)
            net = saved.map(lambda each: each * requests / 1000 - fixed_usd)
        ends = net.numbers[1:] if accept_n is not None else net.numbers[:1]
        if verdict == "open":
            verdict = "loses" if max(ends) <= 0 else "saves" if min(ends) > 0 else "uncertain"
    sentence = _sentence(verdict, figures, Figure(least, "share"), starts)
    if fixed_usd and accept_rate is None and not requests:
        sentence += " Its fixed cost is not counted: say how many requests a month has."
    elif fixed_usd and accept_rate is not None:
        pays = "No number of requests pays for it"
        pays = pays if starts is None else f"It is paid for from {starts:,} requests a month on"
        sentence += f" The fixed cost is {dollars(fixed_usd)} a month. {pays}."
    return Plan(verdict, sentence, figures, least, starts)


def _sentence(
    verdict: Verdict, figures: Mapping[str, Figure], break_even: Figure, starts: int | None
) -> str:
    rate = f"an accept rate of {words(figures.get('accept_rate'))}"
    gain = f"{words(figures.get('saved_per_1000_usd'))} per 1,000 requests"
    least = words(break_even)
    costs = " and check" if break_even == figures["cost_ratio"] else ", check and fixed"
    why = f"{rate} is not above the {least} from which it saves"
    why = why if starts is None else f"{gain} do not pay for the fixed cost"
    return {
        "never": f"Never: draft{costs} cost {least} of a large answer, so a cascade loses "
        "money at every accept rate. Use the large model alone, or a cheaper small one.",
        "open": f"It saves from an accept rate of {least} on; below, switch it off.",
        "saves": f"It saves {gain}: {rate} is above the {least} from which it saves.",
        "loses": f"It loses money: {why}. Switch it off.",
        "uncertain": f"It cannot be told yet: {gain}, and the interval, all costs counted, holds "
        "both a saving and a loss. Measure the accept rate on more examples.",
    }[verdict]


def call_usd(
    price: Price | ListPrice, input_tokens: int, output_tokens: int, busy_s: Decimal | None = None
) -> Decimal:
    """Dollars of a call, which keeps a machine busy for so many seconds."""
    usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    cost = price.cost(usage, None if busy_s is None else float(busy_s * 1000))
    if cost is None:
        raise ConfigurationError(
            "the small model is priced per busy hour: give --busy-s, the seconds that it computes "
            "for a draft."
        )
    return cost


def recorded(
    path: Path,
    small: str | None,
    large: str | None,
    accept_rate: Decimal | None = None,
    accept_n: int | None = None,
) -> dict[str, Any]:
    """Figures for `plan`, from recorded answers or whole runs of agents. Where no accept rate
    is given, it is the share of drafts that `evaluate` keeps."""
    from cascade.evaluation.features import pair_of  # noqa: PLC0415 - scikit-learn
    from cascade.evaluation.recordings import read_transcripts  # noqa: PLC0415
    from cascade.evaluation.verdict import evaluate  # noqa: PLC0415

    pair = pair_of(read_transcripts(path), small or "?", large or "?")
    if not pair.priced:
        raise ConfigurationError(f"{path} does not say what both models cost: record `cost_usd`.")
    if accept_rate is None:
        found = evaluate(pair)
        accept_rate, accept_n = Decimal(str(1 - found.recommended.escalated)), found.rows
    return {
        "draft_usd": Decimal(str(pair.small_cost.mean())),
        "large_usd": Decimal(str(pair.large_cost.mean())),
        "accept_rate": accept_rate,
        "accept_n": accept_n,
    }


def to_document(found: Plan, notes: Sequence[str] = ()) -> Document:
    """The plan with its figures and what they rest on, which `notes` say."""
    known = found.figures
    rows = tuple((LINES[name][0], known[name], LINES[name][1]) for name in LINES if name in known)
    bad = found.verdict in ("loses", "never")
    return Document(
        title="Whether a cascade can pay",
        sentence=found.sentence,
        tables=(Table("Per request", ("", "", ""), rows),),
        facts=(Fact("saves from an accept rate of", Figure(found.break_even, "share")),),
        notes=tuple(notes),
        tone="good" if found.verdict == "saves" else "bad" if bad else "open",
    )
