from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from cascade.teaching import evidence as module
from cascade.teaching.evidence import Evidence, Group, Groups, Pair, jaccard

PLACE = ("", "")


def fed(gains: Sequence[float | None], rate: float = 1.0, trial: float = 1.0) -> Evidence:
    evidence = Evidence()
    for i, gain in enumerate(gains):
        evidence.put(f"r{i}", Pair(rate, gain, trial))
    return evidence


def test_a_group_goes_live_once_its_gains_are_no_chance() -> None:
    steady = [0.2] * 60
    assert fed(steady).standing == "live"
    assert fed(steady[:5]).standing == "candidate"
    assert fed([0.2, -0.2] * 30).standing == "candidate"


def test_without_any_gain_a_group_goes_live_as_rarely_as_alpha_says() -> None:
    draw = random.Random(7)
    live = 0
    for _ in range(60):
        live += fed([draw.choice([-0.2, 0.2]) for _ in range(40)]).standing == "live"
    assert live / 60 <= 0.05 + 2 * (0.05 * 0.95 / 60) ** 0.5


def test_audited_gains_count_by_the_inverse_of_their_chance() -> None:
    seen = fed([1.0, None, None, None], rate=0.25)
    assert seen.gain == pytest.approx(1.0)
    assert Evidence().gain == 0
    assert len(seen.known) == 1


def test_a_live_group_that_harms_is_dropped_and_comes_back_by_new_evidence() -> None:
    evidence = fed([0.2] * 60)
    evidence.pairs.clear()
    changes = [evidence.put(f"bad {i}", Pair(1.0, -0.8)) for i in range(10)]
    assert sum(changes) == 1
    assert evidence.standing == "dropped"
    assert any(evidence.put(f"good {i}", Pair(1.0, 0.2)) for i in range(80))


def test_what_changed_begins_anew() -> None:
    evidence = Evidence()
    while evidence.standing == "candidate":
        evidence.put(str(len(evidence.pairs)), Pair(1.0, 0.2))
    assert evidence.pairs == {}


def test_evidence_is_of_the_last_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUESTS_KEPT", 3)
    assert list(fed([0.0] * 5).pairs) == ["r2", "r3", "r4"]


def test_trials_without_hope_become_rare_and_never_end() -> None:
    rates = [fed([0.0] * n).trial for n in (7, 8, 16, 400)]
    assert rates == [1.0, 1 / 4, 1 / 16, 1 / 16]
    assert fed([0.1] * 8).trial == 1.0
    live = fed([0.2] * 60)
    assert (live.standing, live.trial) == ("live", 1.0)


# --- groups


def test_a_question_belongs_to_the_nearest_group_of_its_place() -> None:
    groups = Groups()
    first = groups.of(PLACE, "How long may boots be returned?", "r1")
    assert groups.of(PLACE, "How long may coats be returned?", "r2") is first
    assert groups.of(PLACE, "Which harbour is deepest?", "r3") is not first
    assert groups.find(("", "acme"), "How long may boots be returned?") is None
    assert len(groups.all()) == 2


def test_of_too_many_groups_no_more_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_GROUPS", 1)
    groups = Groups()
    assert groups.of(PLACE, "boots", "r1")
    assert groups.of(PLACE, "harbours", "r2") is None


def test_a_group_is_kept_in_runs_and_numbers_and_comes_back() -> None:
    groups, again = Groups(), Groups()
    group = groups.of(PLACE, "boots?", "r1")
    assert group
    group.put("r2", Pair(0.5, 0.1, 0.25))
    group.copied(["r1"], "r2", right=True)
    assert "boots" not in str(group.to_json())
    for _ in range(2):
        again.restore(PLACE, "boots?", "r1", group.to_json())
    (back,) = again.all()
    assert back.to_json() == group.to_json()


def test_what_was_deleted_is_forgotten_and_a_group_goes_with_its_question() -> None:
    groups = Groups()
    boots, harbours = groups.of(PLACE, "boots?", "r1"), groups.of(PLACE, "harbours?", "r2")
    assert boots
    assert harbours
    harbours.put("r1", Pair(1.0, 0.1))
    harbours.copied(["r1"], "r3", right=False)
    groups.forget(["r1"])
    assert groups.all() == [harbours]
    assert (harbours.evidence.pairs, harbours.scores) == ({}, {})


def test_a_lesson_whose_copies_were_wrong_is_shown_no_more() -> None:
    group = Group(PLACE, "boots?", Evidence(), "r1")
    group.copied(["r1"], "r2", right=True)
    assert group.scores == {"r1": 1, "r2": 1}
    group.suspect(lambda run_id: run_id == "r1")
    assert group.scores == {"r1": 0, "r2": 1}
    for by in ("r3", "r4"):
        assert group.shows("r1")
        group.copied(["r1"], by, right=False)
    assert not group.shows("r1")


def test_the_index_of_words_in_common() -> None:
    assert jaccard(frozenset("ab"), frozenset("bc")) == pytest.approx(1 / 3)
    assert jaccard(frozenset(), frozenset()) == 0
