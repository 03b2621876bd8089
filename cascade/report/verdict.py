"""Whether a cascade pays, why, what to do next, and what a reader must know besides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cascade._words import counted, dollars, percent
from cascade.evaluation.audit.estimates import SavingReport
from cascade.report.figures import accepted, can_be_audited
from cascade.report.reading import Books, Row
from cascade.report.records import Needed, Quality, Status, Verdict
from cascade.report.sums import Sums

NOTABLE = 5
"""So many audits that are due come to nothing by chance in less than one case of a hundred."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with its reason."""

    verdict: Verdict
    reason: str
    status: Status
    drafts: int
    audited: bool

    def advice(self, needed: Needed) -> str:
        """What to do next."""
        if self.status == "empty":
            return (
                "Look whether period and tags are what you mean, and whether the cascade writes "
                "into this ledger: Cascade(…, ledger=open_store(URL))."
            )
        if self.verdict == "loses":
            return (
                "Switch it off: ask the large model alone. A cheaper draft, a better calibration "
                "or a lower threshold may turn it; `cascade evaluate` tells on recorded answers."
            )
        if self.status == "unknown":
            return (
                "Give the models that are listed as unknown a price, Tier(…, price=Price(…)), and "
                "count from then on (--since)."
            )
        if not self.drafts:
            return "No draft was accepted, so there is nothing to audit."
        return _audits_to_come(needed, self.audited)


def judge(
    rows: Sequence[Row],
    saved: SavingReport,
    status: Status,
    quality: Quality | None = None,
    audits_usd: float = 0.0,
) -> Judgement:
    """The verdict on the saving's interval.

    Args:
        rows: the runs.
        saved: their saving.
        status: how far it can be claimed.
        quality: what was lost for it, where that is known.
        audits_usd: what audits and their judges cost: who audits less spends less.
    """
    drafts = len(accepted(rows))
    verdict, reason = _verdict(rows, saved, status, audits_usd)
    if verdict == "saves" and quality is not None and quality.loss.low > 0:
        reason += f"; but it lost at least {percent(quality.loss.low)} of quality per request"
    return Judgement(verdict, reason, status, drafts, saved.saving.audits > 0)


def _verdict(
    rows: Sequence[Row], saved: SavingReport, status: Status, audits_usd: float
) -> tuple[Verdict, str]:
    low, high = saved.saving.low, saved.saving.high
    if status == "empty" or _only_shadow(rows):
        return "cannot tell yet", _why_open(rows, saved, status)
    if high <= 0 and low < 0:
        if _without_baseline(rows, saved):
            return "cannot tell yet", (
                "there are accepted drafts, and nobody knows what the large model would have cost "
                "for them"
            )
        if high + audits_usd > 0:
            return "cannot tell yet", (
                f"its audits cost {dollars(audits_usd)}, without which it would have saved up to "
                f"{dollars(high + audits_usd)}: audit a smaller share"
            )
        return "loses", f"at best it has lost {dollars(-high)}{_of_bill(-saved.share.high, saved)}"
    if status in ("verified", "measured") and low > 0:
        return "saves", f"at least {dollars(low)} was saved{_of_bill(saved.share.low, saved)}"
    return "cannot tell yet", _why_open(rows, saved, status)


def _of_bill(share: float, saved: SavingReport) -> str:
    if saved.baseline.value <= 0:
        return ""
    return f", {percent(share)} of what the large model alone would have cost"


def _without_baseline(rows: Sequence[Row], saved: SavingReport) -> bool:
    """Whether drafts were accepted for which neither an estimate nor an audit stands."""
    return any(
        row.predicted is None
        and row.large is None
        and not (can_be_audited(row) and saved.saving.audits)
        for row in accepted(rows)
    )


def _why_open(rows: Sequence[Row], saved: SavingReport, status: Status) -> str:
    reasons = {
        "empty": "there are no requests in this period",
        "unknown": "there are calls whose cost nobody knows, not even roughly",
        "estimated": "no accepted draft has been audited",
    }
    if status == "estimated" and any(row.audited for row in rows):
        return "what the large model costs is unknown, also from the audits"
    if status in reasons:
        return reasons[status]
    if _only_shadow(rows):
        return "the large model answered everything: a shadow start saves nothing yet"
    low, high = saved.saving.low, saved.saving.high
    return f"the saving is between {dollars(low)} and {dollars(high)}"


def _only_shadow(rows: Sequence[Row]) -> bool:
    return all(row.outcome == "shadow" for row in rows)


def _audits_to_come(needed: Needed, audited: bool) -> str:
    wanted = f"±{100 * needed.precision:g} points of quality loss take {needed.audits:,} audits"
    if needed.assumed:
        wanted += " if one draft in ten differs"
    if not needed.missing:
        return f"{wanted}: they are there."
    if needed.days is None or not audited:
        return f"{wanted}. Audit accepted drafts: Cascade(…, audit_rate=0.05)."
    days = counted(round(needed.days), "day")
    return f"{wanted}: {needed.missing:,} more, about {days} at this rate."


def remarks_of(
    books: Books, total: Sums, saved: SavingReport, quality: Quality | None, assumed_usd: float
) -> tuple[str, ...]:
    """What a reader must know about the figures, in sentences."""
    drafts = accepted(books.runs())
    blind = sum(not can_be_audited(row) and row.large is None for row in drafts)
    remarks = _money_remarks(books, total)
    if saved.saving.audits and saved.estimated_usd:
        remarks.append(
            f"The tables hold baselines as they were estimated when drafts were accepted, "
            f"{dollars(total.estimated)} for those not audited; the audits make that "
            f"{dollars(saved.estimated_usd)}."
        )
    if blind:
        remarks.append(
            f"Accepted drafts that could not be audited (auditing off, or its budget used up): "
            f"{blind:,} of {len(drafts):,}. {dollars(assumed_usd)} of the baseline rests on "
            "assumed limits."
        )
    judge = books.judge
    if judge.rate is not None:
        remarks.append(
            f"The judge of audits, asked again in the other order, said something else in "
            f"{judge.disagreed:,} of {judge.repeated:,} comparisons ({percent(judge.rate)})."
        )
    if judge.planted:
        remarks.append(
            f"It preferred one of two equal answers in {judge.planted_wrong:,} of "
            f"{judge.planted:,} comparisons."
        )
    return (*remarks, *_audit_remarks(drafts, quality))


def _audit_remarks(drafts: Sequence[Row], quality: Quality | None) -> list[str]:
    expected = sum(row.rate or 0.0 for row in drafts)
    if quality is None:
        return ["Nothing is known about quality: no accepted draft could be audited."]
    remarks = []
    if quality.represented < 1:
        remarks.append(
            f"The quality figures stand for {percent(quality.represented)} of the accepted drafts."
        )
    if quality.assumed_finished < 1:
        remarks.append(
            f"Only {percent(quality.assumed_finished)} of the audits that were due have a result: "
            "these are taken for a random part of them."
        )
    elif expected > NOTABLE and not any(row.audited for row in drafts):
        remarks.append(f"About {expected:,.0f} audits were due and none has a result: see the log.")
    return remarks


def _money_remarks(books: Books, total: Sums) -> list[str]:
    remarks = []
    if total.unknown:
        missing = f" For {total.unpriced:,} nothing can be assumed." if total.unpriced else ""
        remarks.append(
            f"Calls of unknown cost: {total.unknown:,}. {dollars(total.assumed)} is assumed for "
            f"them and counted as spent.{missing}"
        )
    if total.no_baseline:
        remarks.append(
            f"Accepted drafts without a baseline, as their usage or the large model's price is "
            f"unknown: {total.no_baseline:,}. They count as nothing saved unless audited."
        )
    if books.unfinished:
        remarks.append(
            f"Calls of unknown outcome: {len(books.unfinished):,}. Their process ended before "
            "they did; if they were paid for, that is not in these figures."
        )
    return remarks
