"""The choice of thresholds, and the verdict to switch off."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.evaluation.staged import (
    ALWAYS,
    NEVER,
    OFF,
    Rule,
    Stage,
    StagedPolicy,
    choose_policy,
    replay_staged,
)

N = 200
FREE = np.zeros(N)
LARGE_COST = np.ones(N)
PLAIN = Rule(margin=0.0)


def outcomes(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(expected gain, small, large): the large model is always right."""
    rng = np.random.default_rng(seed)
    gain = rng.random(N)
    return gain, (rng.random(N) >= gain).astype(float), np.ones(N)


def draft(gain: np.ndarray, cost: float = 0.1) -> Stage:
    return Stage(gain, np.full(N, cost), FREE)


def test_the_cheapest_threshold_within_epsilon_is_found() -> None:
    gain, small, large = outcomes()
    found = choose_policy([draft(gain)], small, large, LARGE_COST, PLAIN)
    tried = [
        StagedPolicy(accept=(cut,), escalate=(cut,), cost=0, quality_change=0)
        for cut in [NEVER, *np.sort(gain)]
    ]
    best = 1.0
    for policy in tried:
        accepted, cost = replay_staged(policy, [draft(gain)], LARGE_COST)
        if (accepted * (small - large)).mean() >= -0.01:
            best = min(best, cost.sum() / N)
    assert found.cost == pytest.approx(best)


def test_replaying_it_gives_the_figures_that_it_was_chosen_by() -> None:
    gain, small, large = outcomes()
    stages = [Stage(np.roll(gain, 3), FREE, FREE), draft(gain)]
    found = choose_policy(stages, small, large, LARGE_COST, PLAIN)
    accepted, cost = replay_staged(found, stages, LARGE_COST)
    assert cost.sum() / N == pytest.approx(found.cost)
    assert (accepted * (small - large)).mean() == pytest.approx(found.quality_change)


@given(st.floats(1.0, 5.0), st.integers(0, 50))
def test_it_is_off_when_a_draft_costs_as_much_as_the_large_model(ratio: float, seed: int) -> None:
    gain, small, large = outcomes(seed)
    found = choose_policy([draft(gain, ratio)], small, large, LARGE_COST, PLAIN)
    assert found == OFF


def test_off_asks_the_large_model_everything() -> None:
    accepted, cost = replay_staged(OFF, [], LARGE_COST)
    assert not accepted.any()
    assert cost.tolist() == LARGE_COST.tolist()


def test_without_the_verdict_a_policy_may_lose_money() -> None:
    gain, small, large = outcomes()
    rule = Rule(margin=0.0, ceiling=np.inf)
    found = choose_policy([draft(gain, 2.0)], small, large, LARGE_COST, rule)
    assert not found.off
    assert found.cost > 1.0


def test_caution_and_margin_only_make_it_dearer() -> None:
    gain, small, large = outcomes()
    plain, careful = (
        choose_policy([draft(gain)], small, large, LARGE_COST, rule)
        for rule in (PLAIN, Rule(caution=1.0))
    )
    assert careful.cost >= plain.cost
    assert careful.quality_change >= plain.quality_change


@given(st.integers(0, 50))
def test_equal_gains_are_decided_alike(seed: int) -> None:
    gain, small, large = outcomes(seed)
    stage = draft(np.round(gain, 1))
    found = choose_policy([stage], small, large, LARGE_COST, PLAIN)
    accepted, _ = replay_staged(found, [stage], LARGE_COST)
    for value in np.unique(stage.gain):
        assert len(set(accepted[stage.gain == value].tolist())) == 1


@given(st.integers(0, 50))
def test_a_row_with_less_gain_is_accepted_when_one_with_more_is(seed: int) -> None:
    gain, small, large = outcomes(seed)
    found = choose_policy([draft(gain)], small, large, LARGE_COST, PLAIN)
    accepted, _ = replay_staged(found, [draft(gain)], LARGE_COST)
    assert gain[accepted].max(initial=NEVER) < gain[~accepted].min(initial=ALWAYS)


def test_a_router_pays_no_draft_for_what_it_escalates() -> None:
    router = Stage(np.array([0.1, 0.9]), np.zeros(2), np.array([0.2, 0.2]))
    policy = StagedPolicy(accept=(0.5,), escalate=(0.5,), cost=0, quality_change=0)
    accepted, cost = replay_staged(policy, [router], np.ones(2))
    assert accepted.tolist() == [True, False]
    assert cost.tolist() == [0.2, 1.0]


def test_a_row_pays_for_the_stages_that_it_goes_through() -> None:
    gains = (np.array([0.9, 0.5, 0.5, 0.1]), np.array([0.0, 0.9, 0.5, 0.0]), np.full(4, 0.2))
    costs = (0.0, 0.1, 0.01)
    stages = [Stage(g, np.full(4, c), np.zeros(4)) for g, c in zip(gains, costs, strict=True)]
    policy = StagedPolicy(
        accept=(NEVER, 0.1, 0.3), escalate=(0.8, 0.8, 0.3), cost=0, quality_change=0
    )
    accepted, cost = replay_staged(policy, stages, np.ones(4))
    assert accepted.tolist() == [False, False, True, True]
    assert cost == pytest.approx([1.0, 1.1, 0.11, 0.1])


def test_a_policy_survives_json_with_its_infinities() -> None:
    policy = StagedPolicy(accept=(NEVER, 0.1), escalate=(ALWAYS, 0.1), cost=1, quality_change=0)
    assert StagedPolicy.model_validate_json(policy.model_dump_json()) == policy
