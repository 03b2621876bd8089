from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from cascade.teaching import evidence as module
from cascade.teaching.evidence import Evidence, Groups, Trial

PLACE = ("", "")


def fed(gains: Sequence[float], rate: float = 1.0) -> Evidence:
    evidence = Evidence()
    for gain in gains:
        evidence.put(Trial(gain, rate))
    return evidence


def test_a_group_goes_live_by_its_gains_and_hopeless_trials_become_rare() -> None:
    given = ([0.2] * 60, [0.2] * 5, [0.2, -0.2] * 30)
    assert [fed(gains).live for gains in given] == [True, False, False]
    assert [fed([0.0] * n).trial for n in (7, 8, 400)] == [1.0, 1 / 16, 1 / 16]
    assert fed([0.1] * 8).trial == fed([0.2] * 60).trial == 1.0


def test_without_any_gain_a_group_goes_live_as_rarely_as_alpha_says() -> None:
    draw = random.Random(7)
    live = 0
    for _ in range(60):
        live += fed([draw.choice([-0.2, 0.2]) for _ in range(40)]).live
    assert live / 60 <= 0.05 + 2 * (0.05 * 0.95 / 60) ** 0.5


def test_a_live_group_that_harms_is_dropped_and_comes_back_by_new_evidence() -> None:
    evidence = fed([0.2] * 60)
    changes = [evidence.put(Trial(-0.8, rate)) for rate in (1.0, 0.5) * 5]
    assert (sum(changes), evidence.live) == (1, False)
    while not evidence.live:
        evidence.put(Trial(0.2))
    assert list(evidence.pairs) == []  # what has changed begins anew


def test_a_question_belongs_to_the_nearest_group_of_its_place() -> None:
    groups = Groups()
    groups.add(PLACE, "r1", "How long may boots be returned?")
    groups.add(PLACE, "r2", "How long may coats be returned?")
    groups.add(PLACE, "r3", "Which harbour is deepest?")
    first, second = groups.by_place[PLACE]
    assert groups.find(PLACE, "How long may hats be returned?") is first
    assert list(first.near("How long may COATS be returned?")) == ["r2", "r1"]
    assert list(second.lessons) == ["r3"]
    assert groups.find(("", "acme"), "How long may boots be returned?") is None


def test_of_groups_and_lessons_there_are_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_GROUPS", 1)
    monkeypatch.setattr(module, "MOST_LESSONS", 2)
    groups = Groups()
    for i in range(4):
        groups.add(PLACE, f"r{i}", "boots")
    groups.add(PLACE, "r4", "harbours")
    (group,) = groups.by_place[PLACE]
    assert list(group.lessons) == ["r2", "r3"]
