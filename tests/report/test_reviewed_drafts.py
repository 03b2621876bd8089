"""What a report makes of answers that were given with the draft before them."""

from __future__ import annotations

from decimal import Decimal

from tests.report.ledgers import CENT, DRAFT, Story, call, reported

APPROVAL = Decimal("0.004")


def reviewed(baseline: Decimal | None = CENT) -> Story:
    """A run whose draft the large model approved of, for less than writing anew would cost."""
    story = Story().draft().decide("escalate")
    ranges = (
        {}
        if baseline is None
        else {"baseline_low_usd": baseline / 5, "baseline_high_usd": baseline * 2}
    )
    return story.tell(
        call(
            story.run,
            "review",
            APPROVAL,
            tier="large",
            model="large-model",
            baseline_usd=baseline,
            saved_usd=None if baseline is None else baseline - APPROVAL,
            basis="unknown" if baseline is None else "estimated",
            **ranges,
        )
    )


def test_it_is_escalated_and_its_saving_is_an_estimate() -> None:
    report = reported([reviewed()])
    assert report.outcomes == {"escalated": 1}
    assert report.total.baseline_estimated_usd == CENT
    assert report.total.baseline_measured_usd == 0
    saving = report.saving.saving
    assert saving.basis == "estimated"
    assert saving.value == float(CENT - APPROVAL - DRAFT)
    assert saving.low < saving.value < saving.high


def test_beside_answers_that_were_written_anew_only_they_are_estimated() -> None:
    report = reported([reviewed(), Story().draft().decide("escalate").expert()])
    assert report.total.baseline_estimated_usd == CENT
    assert report.total.baseline_measured_usd == CENT
    assert report.saving.saving.basis == "estimated"


def test_of_an_unknown_baseline_nothing_is_claimed() -> None:
    report = reported([reviewed(None)])
    assert report.total.baseline_estimated_usd == 0
    assert report.saving.saving.value == float(-APPROVAL - DRAFT)


def test_that_it_is_as_good_as_an_answer_of_its_own_is_not_taken_for_granted() -> None:
    assert reported([Story().draft().decide("escalate").expert()]).quality is not None
    assert reported([reviewed()]).quality is None


def test_audits_of_accepted_drafts_do_not_stand_for_it() -> None:
    audited = [Story().draft().accept(rate=1.0).audit(large=CENT) for _ in range(10)]
    quality = reported([*audited, reviewed()]).quality
    assert quality is not None
    assert quality.represented == 10 / 11
