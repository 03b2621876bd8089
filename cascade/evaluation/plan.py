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
from cascade.evaluation.render import (
    Cell,
    Document,
    Fact,
    Figure,
    Table,
    Tone,
    dollars,
    percent,
    words,
)
from cascade.ledger.prices import ListPrice, Price
from cascade.state import Usage

CHECK_QUESTION_TOKENS, CHECK_ANSWER_TOKENS = 30, 4
"""Tokens of a self-check beyond the question and the draft, and room for its one word."""

Verdict = Literal["saves", "loses", "uncertain", "open", "never"]
"""`open`: it depends on an accept rate that was not given. `uncertain`: its interval says both."""

_TONES: Mapping[Verdict, Tone] = {"saves": "good", "loses": "bad", "never": "bad"}


@dataclass(frozen=True, slots=True)
class Plan:
    """Forecast of cost and saving; dollars per request where nothing else is said.

    Attributes:
        cost_ratio: r = (c_S + c_V)/c_L; it saves above this accept rate, and never from 1 on.
        accept_rate: a, with its Wilson interval where it was seen on so many examples.
        relative_cost: r + (1 − a), the cost as a share of the large model alone.
        saved_per_1000_usd: 1000·(a·c_L − c_S − c_V), fixed cost not counted.
        fixed_usd: what a month costs before the first request.
        from_requests: requests a month from which on that is paid for; None if never.
        requests: a month; `monthly_usd` for them: (large model alone, cascade with all costs).
    """

    draft_usd: Decimal
    check_usd: Decimal
    large_usd: Decimal
    cost_ratio: Decimal
    accept_rate: Figure | None
    relative_cost: Figure | None
    saved_per_1000_usd: Figure | None
    fixed_usd: Decimal
    from_requests: int | None
    requests: Decimal | None
    monthly_usd: tuple[Decimal, Decimal | None] | None

    @property
    def verdict(self) -> Verdict:
        """The verdict in one word; fixed cost counts where the requests are given."""
        saved, requests = self.saved_per_1000_usd, self.requests
        if self.cost_ratio >= 1 or saved is None:
            return "never" if self.cost_ratio >= 1 else "open"
        if requests is not None:
            saved = saved.map(lambda usd: usd * requests / 1000 - self.fixed_usd)
        value, low, high = saved.numbers
        if (value if math.isnan(high) else high) <= 0:
            return "loses"
        return "saves" if (value if math.isnan(low) else low) > 0 else "uncertain"

    @property
    def sentence(self) -> str:
        """The verdict for people."""
        ratio, accept = percent(self.cost_ratio), words(self.accept_rate)
        saved = f"{words(self.saved_per_1000_usd)} per 1,000 requests"
        why = f"an accept rate of {accept} is not above the {ratio} from which it saves"
        if self.from_requests is not None:
            why = f"{saved} do not pay for the fixed cost"
        sentence = {
            "never": f"Never: draft and check cost {ratio} of a large answer, so a cascade loses "
            "money at every accept rate. Use the large model alone, or a cheaper small one.",
            "open": f"It saves from an accept rate of {ratio} on; below, switch it off.",
            "saves": f"It saves {saved}: an accept rate of {accept} is above the {ratio} that "
            "draft and check cost of a large answer.",
            "loses": f"It loses money: {why}. Switch it off.",
            "uncertain": f"It cannot be told yet: {saved}, and the interval, all costs counted, "
            "holds both a saving and a loss. Measure the accept rate on more examples.",
        }[self.verdict]
        if not self.fixed_usd or self.accept_rate is None:
            return sentence
        fixed = f"{dollars(self.fixed_usd)} a month"
        if self.from_requests is None:
            return f"{sentence} No number of requests pays for its {fixed}."
        needed = f"{self.from_requests:,} requests a month"
        return f"{sentence} With {fixed} of fixed cost it saves from {needed} on."


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
    """Cost and saving of a cascade on these figures."""
    if not large_usd:
        raise ConfigurationError(
            "the large model costs $0 per request: there is nothing to save. Set its price."
        )
    each, accept, gained, spent = draft_usd + check_usd, None, Decimal(0), None
    if accept_rate is not None:
        accept, gained = Figure(accept_rate, "share"), accept_rate * large_usd - each
        if accept_n is not None:
            low, high = (Decimal(str(end)) for end in wilson(float(accept_rate), accept_n))
            accept = replace(accept, low=low, high=high, n=accept_n)
        spent = requests and requests * (large_usd - gained) + fixed_usd
    return Plan(
        draft_usd,
        check_usd,
        large_usd,
        cost_ratio=each / large_usd,
        accept_rate=accept,
        relative_cost=accept and accept.map(lambda a: each / large_usd + 1 - a),
        saved_per_1000_usd=accept and accept.map(lambda a: 1000 * (a * large_usd - each), "usd"),
        fixed_usd=fixed_usd,
        from_requests=math.ceil(fixed_usd / gained) if gained > 0 else None,
        requests=requests,
        monthly_usd=None if requests is None else (requests * large_usd, spent),
    )


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

    pair = pair_of(read_transcripts(path), str(small), str(large))
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
    usd, ratio = partial(Figure, unit="usd"), Figure(found.cost_ratio, "share")
    rows: list[tuple[Cell, ...]] = [
        ("draft, c_S", usd(found.draft_usd), ""),
        ("self-check, c_V", usd(found.check_usd), "per draft"),
        ("large model, c_L", usd(found.large_usd), ""),
        ("cost ratio r = (c_S + c_V) / c_L", ratio, "saves above"),
    ]
    if found.accept_rate is not None:
        rows += [
            ("accept rate", found.accept_rate, "expected"),
            ("cost", found.relative_cost, "of the large model alone"),
            ("saved per 1,000 requests", found.saved_per_1000_usd, ""),
        ]
    if found.fixed_usd:
        rows.append(("fixed cost", usd(found.fixed_usd), "a month"))
    if found.monthly_usd is not None:
        alone, spent = found.monthly_usd
        month = f"a month for {found.requests:,f} requests"
        rows += [("large model alone", usd(alone), month), ("cascade, all costs", usd(spent), "")]
    return Document(
        title="Whether a cascade can pay",
        sentence=found.sentence,
        tables=(Table("Per request", ("", "", ""), tuple(rows)),),
        facts=(Fact("saves from an accept rate of", ratio),),
        notes=tuple(notes),
        tone=_TONES.get(found.verdict, "open"),
    )
