"""Entries put together again by run."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cascade.ledger.runs import Run, runs_of
from tests.report.ledgers import NOON, Story, usd


def told(*stories: Story) -> list[Run]:
    entries = sorted((e for story in stories for e in story.entries), key=lambda e: e.at)
    return list(runs_of((entry, {"team": "search"}) for entry in entries).values())


@pytest.mark.parametrize(
    ("story", "outcome"),
    [
        (Story().draft().accept(), "accepted"),
        (Story().draft().decide("escalate").fails("expert").expert(), "escalated"),
        (Story().draft().decide("escalate").fails("expert"), "degraded"),
        (Story().draft().decide("abstain"), "abstained"),
        (Story().draft().decide("ask").decide("ask", node="ask"), "person"),
        (Story().shadow(), "shadow"),
        (Story().draft().decide("escalate"), "unfinished"),
        (Story().fails("draft"), "unfinished"),
    ],
)
def test_the_last_decision_and_who_answered_say_how_a_run_ended(story: Story, outcome: str) -> None:
    [run] = told(story)
    assert run.outcome == outcome


def test_runs_that_cross_in_time_are_told_apart() -> None:
    first, second = Story(NOON), Story(NOON + timedelta(milliseconds=500))
    first.draft().accept()
    second.draft().decide("escalate").expert()
    runs = told(first, second)
    assert [run.run_id for run in runs] == [first.run, second.run]
    assert [len(run.entries) for run in runs] == [2, 3]
    assert runs[0].begun_at == NOON
    assert runs[0].tags == {"team": "search"}


def test_what_the_large_model_costs_is_known_from_its_answer_or_an_audit() -> None:
    [accepted] = told(Story().draft().accept())
    [escalated] = told(Story().draft().decide("escalate").expert(usd("0.03")))
    [audited] = told(Story().draft().accept().audit(usd("0.02"), judge=usd("0.001")))
    assert accepted.large_usd is None
    assert (escalated.large_usd, escalated.audited) == (usd("0.03"), False)
    assert (audited.large_usd, audited.audited) == (usd("0.02"), True)
    assert audited.audit_call is not None
    assert audited.audit_call.cost_usd == usd("0.02")  # the large model's, not the judge's
    assert audited.draft is not None


def test_a_draft_that_failed_is_no_draft() -> None:
    [run] = told(Story().fails("draft"))
    assert run.draft is None
