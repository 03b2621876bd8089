"""What a report says, as frozen records. Dollars of sums are exact, those of estimates are not."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Literal

from pydantic import Field

from cascade.evaluation.audit.estimates import Estimate, SavingReport
from cascade.ledger.judges import JudgeErrors
from cascade.ledger.runs import Outcome
from cascade.state import Record

Status = Literal["verified", "measured", "estimated", "unknown", "empty"]
"""How far the saving can be claimed: `verified` by audits; `measured`, as every baseline is known;
`estimated`, no audits yet; `unknown`, as there are calls that nobody can price; `empty`."""

Verdict = Literal["saves", "loses", "cannot tell yet"]


class Line(Record):
    """Sums over the entries of a group.

    Attributes:
        agent: whose entries they are, in a table by agent and node; None in others.
        requests: runs that began in the group; None where a run has entries in several.
        cost_usd: of the calls whose cost is known; `assumed_usd` is what the `unknown` others
            are assumed to cost, `unpriced` how many of them nobody has an assumption for.
        marginal_usd: what was spent without the hardware.
        saved_measured_usd: measured baselines less all that was spent.
        saved_estimated_usd: baselines of accepted drafts that were not audited.
        no_tokens: calls whose tokens are unknown; the sums of tokens are without them.
    """

    name: str
    agent: str | None = None
    entries: int
    requests: int | None
    unknown: int
    unpriced: int
    cost_usd: Decimal
    assumed_usd: Decimal
    marginal_usd: Decimal
    baseline_measured_usd: Decimal
    baseline_estimated_usd: Decimal
    saved_measured_usd: Decimal
    saved_estimated_usd: Decimal
    input_tokens: int
    output_tokens: int
    no_tokens: int


class Table(Record):
    """Lines by node, tier, model, day, agent, agent and node, or the value of a tag (`tag:KEY`)."""

    by: str
    lines: tuple[Line, ...]


class Rate(Record):
    """A share of n with its 95 % interval (Wilson)."""

    value: float
    low: float
    high: float
    n: int


class Quality(Record):
    """What audits say about the answers, with the large model's as the reference.

    Attributes:
        loss: q_L − q_cascade per request.
        error_rate: share of accepted drafts that are worse than the large model's answer.
        represented: share of accepted or reviewed drafts for which the audits stand, as only these
            could have been audited.
        assumed_finished: below 1 where audits are missing: those that came are taken for a
            random part of those that were drawn.
    """

    loss: Estimate
    error_rate: Estimate
    represented: float
    assumed_finished: float


class Needed(Record):
    """How many audits a wanted precision takes.

    Attributes:
        precision: half width of the 95 % interval of the quality loss per request.
        audits: how many that takes in all; `missing` how many are still to come.
        days: until then at the present rate; None while there is no rate.
        assumed: whether the spread of the loss is assumed, as there are too few audits.
    """

    precision: float
    audits: int
    missing: int
    days: float | None
    assumed: bool


class Reliability(Record):
    """Audited drafts of similar confidence: how sure the cascade was, and how often right."""

    confidence: float
    correct: Rate


class Day(Record):
    """One day, in UTC, by the beginning of its runs."""

    day: str
    requests: int
    escalation: Rate | None
    saving: Estimate


class Unknown(Record):
    """Entries of unknown cost for one reason, and what they are assumed to cost together."""

    node: str
    model: str
    reason: str
    entries: int
    unpriced: int
    assumed_usd: Decimal


class Lost(Record):
    """A call whose process ended before it did: whether it was paid for is unknown."""

    begun_at: datetime
    run_id: str
    node: str
    tier: str | None
    model: str | None


class PriceUsed(Record):
    """Where the price of a model came from, and how many calls it was used for."""

    model: str
    price: str
    calls: int


class Event(Record):
    """A drift alarm, a reaction to one, or a change of mode."""

    at: datetime
    node: str
    text: str


class Outage(Record):
    """Questions that went on to a larger tier because the tier that was to draft them was down.

    Attributes:
        cost_usd: what these runs cost in all, as far as that is known or assumed; of `unpriced`
            calls among them it is neither.
        extra_usd: how much more that is than as many runs cost that were drafted in the same
            period, if these questions were like those; None where there were none.
    """

    tier: str
    runs: int
    cost_usd: Decimal
    unpriced: int
    extra_usd: float | None


class FellBack(Record):
    """Questions that one step of the fallback led on, as the large model could not be had.

    Attributes:
        step: `other`, another large model; `draft`; `queue`; or `ask`, a person.
        tier: the other model, else that of the draft, or the large one.
        seconds: that were waited, on average.
    """

    step: str
    tier: str
    runs: int
    cost_usd: Decimal
    seconds: float


class Shed(Record):
    """Work that was left out under pressure: `audit` (with a lower chance), `shadow`, `signal`."""

    kind: str
    times: int


class Said(Record):
    """What users said of answers. Whoever says something is no random sample of those who asked, so
    that no estimate is made of it, and nothing else in a report rests on it.

    Attributes:
        answers: of the period that the count is about.
        judged: of them, about which users agree.
        wrong: of those, as they say.
        low, high: the share of wrong ones among all, whatever those would have said who said
            nothing (Manski, "Nonparametric Bounds on Treatment Effects", 1990: worst case).
    """

    answers: int
    judged: int
    wrong: int
    low: float
    high: float


class Figures(Record):
    """All about a period that `text()` and `html()` of `Report` show.

    Attributes:
        since, until: the period asked for; None where open. `first` and `last` are the times of
            its first and last entry.
        status: how far the saving can be claimed; `verified_usd` and `verified_share` (of the
            large-only bill) only where it can: the lower end of the saving's interval.
        audits: finished audits; `outcomes` counts runs.
        quality: None where there are accepted drafts and none of them could be audited.
        judge: how often the judge of audits contradicted itself, where there is one.
        outages, fell_back: what followed where a tier that drafts, or the large model, was down.
        shed: what was left out under pressure.
        said: what users said, of `accepted` drafts and of the large model's answers (`escalated`);
            only where they said anything.
        assumed_baseline_usd: the part of the baseline that rests on assumed limits, as its
            drafts could not be audited.
    """

    since: datetime | None
    until: datetime | None
    first: datetime | None
    last: datetime | None
    tags: Mapping[str, str]
    requests: int
    audits: int
    outcomes: Mapping[Outcome, int]
    status: Status
    verified_usd: float | None
    verified_share: float | None
    verdict: Verdict
    reason: str
    advice: str
    remarks: tuple[str, ...]
    saving: SavingReport
    assumed_baseline_usd: float
    quality: Quality | None
    judge: JudgeErrors
    needed: Needed
    escalation: Rate | None
    total: Line
    tables: tuple[Table, ...]
    days: tuple[Day, ...]
    reliability: tuple[Reliability, ...]
    unknown: tuple[Unknown, ...]
    unfinished: tuple[Lost, ...]
    prices: tuple[PriceUsed, ...]
    events: tuple[Event, ...]
    outages: tuple[Outage, ...] = ()
    fell_back: tuple[FellBack, ...] = ()
    shed: tuple[Shed, ...] = ()
    said: Mapping[str, Said] = Field(default_factory=dict)
