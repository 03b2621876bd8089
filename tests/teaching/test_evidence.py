from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from cascade.teaching import memory as module
from cascade.teaching.memory import Group, add_lesson, group_of


def fed(gains: Sequence[float], rate: float = 1.0) -> Group:
    group = Group()
    for gain in gains:
        group.put(gain, rate)
    return group


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
    group = fed([0.2] * 60)
    changes = [group.put(-0.8, rate) for rate in (1.0, 0.5) * 5]
    assert (sum(changes), group.live) == (1, False)
    while not group.live:
        group.put(0.2)
    assert list(group.pairs) == []  # what has changed begins anew


def test_a_question_belongs_to_the_nearest_group() -> None:
    groups: list[Group] = []
    add_lesson("r1", "How long may boots be returned?", groups)
    add_lesson("r2", "How long may coats be returned?", groups)
    add_lesson("r3", "Which harbour is deepest?", groups)
    first, second = groups
    assert group_of("How long may hats be returned?", groups) is first
    assert list(first.near("How long may COATS be returned?")) == ["r2", "r1"]
    assert list(second.lessons) == ["r3"]
    assert group_of("Who wrote it?", groups) is None


def test_of_groups_and_lessons_there_are_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_GROUPS", 1)
    monkeypatch.setattr(module, "MOST_LESSONS", 2)
    groups: list[Group] = []
    for i in range(4):
        add_lesson(f"r{i}", "boots", groups)
    add_lesson("r4", "harbours", groups)
    (group,) = groups
    assert list(group.lessons) == ["r2", "r3"]
