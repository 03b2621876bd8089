"""Forecast of what a cascade costs and saves, from prices or recorded costs; no model is called.

With c_S, c_V and c_L the dollars of a draft, its check and a large answer, and a the share of
drafts that is accepted, a request costs r + (1 − a) of the large model alone, r = (c_S + c_V)/c_L:
a cascade saves only if a > r ("Is Escalation Worth It?", arXiv 2605.06350).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Literal

from cascade.errors import ConfigurationError
from cascade.evaluation.audit import wilson
from cascade.evaluation.render import Document, Figure, Table, words

Verdict = Literal["saves", "loses", "uncertain", "open", "never"]  # `open` without an accept rate


@dataclass(frozen=True, slots=True)
class Plan:
    """Forecast: figures by name, and the requests a month from which the fixed cost is paid for."""

    verdict: Verdict
    figures: Mapping[str, Figure]
    from_requests: int | None
    document: Document


def plan(
    draft_usd: Decimal,
    large_usd: Decimal,
    *,
    check_usd: Decimal = Decimal(0),
    accept_rate: Decimal | None = None,
    accept_n: int | None = None,
    requests: Decimal | None = None,
    fixed_usd: Decimal = Decimal(0),
    note: str = "",
) -> Plan:
    """Forecast on these figures, which rest on what a `note` says; the accept rate was seen on so
    many examples, and the requests and the fixed cost are those of a month, which count for the
    verdict where both are given."""
    if not large_usd:
        told = "the large model costs $0 per request: there is nothing to save"
        raise ConfigurationError(f"{told}. Set its price.")
    each, usd = draft_usd + check_usd, partial(Figure, unit="usd")
    ratio, starts = each / large_usd, None
    least = ratio + (fixed_usd / (requests * large_usd) if requests else 0)
    lines: dict[str, tuple[str, Figure, str]] = {
        "draft_usd": ("draft, c_S", usd(draft_usd), ""),
        "check_usd": ("self-check, c_V", usd(check_usd), "per draft"),
        "large_usd": ("large model, c_L", usd(large_usd), ""),
        "cost_ratio": ("cost ratio r = (c_S + c_V) / c_L", Figure(ratio, "share"), ""),
        "break_even_accept_rate": ("saves from an accept rate of", Figure(least, "share"), ""),
    }
    if fixed_usd:
        lines["fixed_usd"] = ("fixed cost", usd(fixed_usd), "a month")
    if requests is not None:
        lines["large_month_usd"] = ("large model alone", usd(requests * large_usd), "a month")
    verdict: Verdict = "never" if (least if accept_rate is None else ratio) >= 1 else "open"
    if accept_rate is not None:
        accept, gained = Figure(accept_rate, "share"), accept_rate * large_usd - each
        if accept_n is not None:
            low, high = (Decimal(str(end)) for end in wilson(float(accept_rate), accept_n))
            accept = replace(accept, low=low, high=high, n=accept_n)
        relative = accept.map(lambda a: ratio + 1 - a)
        net = saved = accept.map(lambda a: 1000 * (a * large_usd - each), "usd")
        lines["accept_rate"] = ("accept rate a", accept, "expected")
        lines["relative_cost"] = ("cost, r + 1 − a", relative, "of the large model alone")
        lines["saved_per_1000_usd"] = ("saved per 1,000 requests", saved, "fixed cost not counted")
        if requests is not None:
            net = saved.map(lambda each: each * requests / 1000 - fixed_usd)
            month = usd(requests * (large_usd - gained) + fixed_usd)
            lines["month_usd"] = ("cascade, all costs", month, "a month")
        starts = math.ceil(fixed_usd / gained) if gained > 0 else None
        if fixed_usd and starts is not None:
            paid = Figure(starts, "count")
            lines["from_requests"] = ("fixed cost is paid for from", paid, "requests a month")
        ends = net.numbers[1:] if accept_n is not None else net.numbers[:1]
        if verdict == "open":
            verdict = "loses" if max(ends) <= 0 else "saves" if min(ends) > 0 else "uncertain"
    figures = {name: figure for name, (_, figure, _) in lines.items()}
    sentence = _sentence(verdict, figures, starts)
    if fixed_usd and accept_rate is None and not requests:
        sentence += " Its fixed cost is not counted: say how many requests a month has."
    document = Document(
        title="Whether a cascade can pay",
        sentence=sentence,
        tables=(Table("Per request", ("", "", ""), tuple(lines.values())),),
        notes=(note,) if note else (),
        tone="good" if verdict == "saves" else "bad" if verdict in ("loses", "never") else "open",
    )
    return Plan(verdict, figures, starts, document)


def _sentence(verdict: Verdict, figures: Mapping[str, Figure], starts: int | None) -> str:
    rate = f"an accept rate of {words(figures.get('accept_rate'))}"
    gain = f"{words(figures.get('saved_per_1000_usd'))} per 1,000 requests"
    ratio, even = figures["cost_ratio"], figures["break_even_accept_rate"]
    least, costs = words(even), " and check" if even == ratio else ", check and fixed"
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


def recorded(
    path: Path, small: str | None, large: str | None, *, rate: bool = True
) -> dict[str, Any]:
    """Figures for `plan`, from recorded answers or whole runs of agents; the accept `rate` is the
    share of drafts that `evaluate` keeps, where it recommends any."""
    from cascade.evaluation.features import Pair  # noqa: PLC0415 - scikit-learn
    from cascade.evaluation.recordings import read_transcripts  # noqa: PLC0415
    from cascade.evaluation.verdict import evaluate  # noqa: PLC0415

    pair = Pair(read_transcripts(path), small or "", large or "")
    if not pair.priced:
        raise ConfigurationError(f"{path} does not say what both models cost: record `cost_usd`.")
    costs = {"draft_usd": pair.small_cost, "large_usd": pair.large_cost}
    known: dict[str, Any] = {name: Decimal(str(usd.mean())) for name, usd in costs.items()}
    if rate and not (point := evaluate(pair).recommended).off:
        known |= {"accept_rate": Decimal(str(1 - point.escalated)), "accept_n": len(pair)}
    return known
