"""The simulator against what is known exactly, and against what must always hold."""

from __future__ import annotations

import importlib
import importlib.util
import math
import statistics
import sys
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.fleet import Bursts, LognormalTime, MeasuredTimes, Scenario
from cascade.fleet.laws import erlang_b, mean_wait, waits_longer
from cascade.fleet.simulation import Simulated, simulate
from cascade.resilience import Bulkhead

FIXED = LognormalTime(mean_s=0.2, cv=0)
LONG = LognormalTime(mean_s=0.5, cv=0.7)


class ExponentialTime:
    cv = 1.0

    def __init__(self, mean_s: float) -> None:
        self.mean_s = mean_s

    def draw(self, rng: Random) -> float:
        return rng.expovariate(1 / self.mean_s)


def drafts_alone(**changes: object) -> Scenario:
    """A queue, and nothing before or behind it."""
    base = {"rate": 8.0, "escalation": 0.0, "small": FIXED, "large": FIXED, "concurrency": 10**6}
    return Scenario(**{**base, "gateway_cpu_ms": 0.0, **changes})


def over_seeds(
    scenario: Scenario, figure: Callable[[Simulated], float], seconds: float, seeds: int = 6
) -> tuple[float, float]:
    """Mean of a figure, and four standard errors of it."""
    found = [figure(simulate(scenario, seconds=seconds, seed=seed)) for seed in range(seeds)]
    return statistics.fmean(found), 4 * statistics.stdev(found) / math.sqrt(seeds)


def test_exponential_servers_wait_as_erlang_says() -> None:
    scenario = drafts_alone(rate=14, small=ExponentialTime(0.2), slots=4)
    mean, error = over_seeds(scenario, lambda found: found.small_wait_mean_s, 200)
    exact = mean_wait(14, 0.2, 4)
    assert error < 0.6 * exact
    assert mean == pytest.approx(exact, abs=error)
    p99, error = over_seeds(scenario, lambda found: found.small_wait_p99_s, 200)
    assert waits_longer(p99 + error, 14, 0.2, 4) < 0.01 < waits_longer(p99 - error, 14, 0.2, 4)


@pytest.mark.parametrize("cv", [0.0, 1.0])
def test_one_server_waits_as_pollaczek_and_khinchine_say(cv: float) -> None:
    scenario = drafts_alone(rate=3.5, small=LognormalTime(mean_s=0.2, cv=cv), slots=1)
    mean, error = over_seeds(scenario, lambda found: found.small_wait_mean_s, 600)
    exact = mean_wait(3.5, 0.2, 1, cv=cv)
    assert error < 0.6 * exact
    assert mean == pytest.approx(exact, abs=error)


def test_a_bulkhead_without_a_queue_sheds_as_erlang_b_says_whatever_the_times() -> None:
    bulkhead = Bulkhead(most=4, waiting=0, wait_s=1)
    scenario = drafts_alone(rate=10, small=LONG, large=FIXED, small_bulkhead=bulkhead)
    mean, error = over_seeds(scenario, lambda found: found.shed / found.arrived, 300)
    assert error < 0.05
    assert mean == pytest.approx(erlang_b(5, 4), abs=error)
    assert simulate(scenario, seconds=100).failed == 0  # the large model answers what is shed


def test_a_gate_without_a_queue_refuses_as_erlang_b_says() -> None:
    scenario = drafts_alone(rate=10, small=LONG, concurrency=5, queue=0)
    mean, error = over_seeds(scenario, lambda found: found.refused / found.arrived, 300)
    assert mean == pytest.approx(erlang_b(5, 5), abs=error)


def test_an_event_loop_is_busy_for_rate_times_processor_time() -> None:
    scenario = drafts_alone(rate=150, gateway_cpu_ms=4.0, escalation=0.3, gateways=1)
    found = simulate(scenario, seconds=20)
    assert found.gateway_busy == pytest.approx(0.6, rel=0.05)
    both = simulate(scenario.model_copy(update={"gateways": 2}), seconds=20)
    assert both.gateway_busy == pytest.approx(0.3, rel=0.05)


def test_littles_law_holds_for_the_whole_and_for_the_large_calls() -> None:
    scenario = drafts_alone(rate=40, small=LONG, large=LONG, escalation=0.4, slots=24)
    found = simulate(scenario, seconds=200)
    assert found.in_system == pytest.approx(found.per_second * found.mean_s, rel=0.02)
    rate = found.escalated / 200
    assert found.large_in_flight == pytest.approx(rate * LONG.mean_s, rel=0.05)
    waiting = found.per_second * found.small_wait_mean_s
    assert found.small_waiting == pytest.approx(waiting, rel=0.05)


@settings(max_examples=30, deadline=None)
@given(
    rate=st.floats(1, 60),
    escalation=st.floats(0, 1),
    slots=st.none() | st.integers(1, 8),
    gateways=st.integers(1, 3),
    places=st.integers(1, 6),
    waiting=st.integers(0, 4),
    queue=st.integers(0, 5),
    balancing=st.sampled_from(["one queue", "shortest", "random"]),
    bursts=st.none() | st.just(Bursts(factor=4, lasts_s=1, every_s=3, escalation=0.9)),
    seed=st.integers(0, 99),
)
def test_every_request_ends_in_one_way_and_only_one(
    rate: float, waiting: int, places: int, **drawn: object
) -> None:
    seed = drawn.pop("seed")
    bulkhead = Bulkhead(most=places, waiting=waiting, wait_s=0.3)
    scenario = Scenario(
        rate=rate,
        small=LONG,
        large=LONG,
        concurrency=12,
        queue_timeout_s=0.5,
        replicas=2,
        small_bulkhead=bulkhead,
        large_bulkhead=bulkhead,
        **drawn,
    )
    found = simulate(scenario, seconds=10, warmup_s=0, seed=seed)
    assert found.arrived == found.answered + found.refused + found.failed
    assert found.failed <= found.shed
    assert found.escalated + found.degraded <= found.answered
    assert found.large_in_flight_most <= places * scenario.gateways
    if scenario.slots is not None:
        assert 0 <= found.small_busy <= 1
    assert 0 <= found.gateway_busy <= 1
    again = simulate(scenario, seconds=10, warmup_s=0, seed=seed)
    assert again.model_dump_json() == found.model_dump_json()


def test_replicas_with_queues_of_their_own_wait_longer_than_one_queue() -> None:
    scenario = drafts_alone(rate=32, small=LONG, replicas=5, slots=4)
    waits = [
        simulate(
            scenario.model_copy(update={"balancing": how}), seconds=120, seed=3
        ).small_wait_mean_s
        for how in ("one queue", "shortest", "random")
    ]
    assert waits[0] < waits[1] < waits[2] / 2


def test_bursts_leave_the_rate_and_make_requests_wait() -> None:
    scenario = drafts_alone(rate=20, slots=6)
    bursts = Bursts(factor=3, lasts_s=2, every_s=8)
    even = simulate(scenario, seconds=400)
    uneven = simulate(scenario.model_copy(update={"bursts": bursts}), seconds=400)
    assert uneven.per_second == pytest.approx(even.per_second, rel=0.1)
    assert uneven.small_wait_mean_s > 5 * even.small_wait_mean_s


def test_what_comes_in_a_burst_may_be_escalated_more() -> None:
    bursts = Bursts(factor=5, lasts_s=5, every_s=20)
    alike, harder = (
        simulate(drafts_alone(rate=20, escalation=0.1, bursts=each), seconds=300)
        for each in (bursts, bursts.model_copy(update={"escalation": 0.8}))
    )
    assert alike.escalated / alike.arrived == pytest.approx(0.1, abs=0.02)
    assert harder.escalated / harder.arrived > 0.3
    assert harder.large_in_flight_most > 2 * alike.large_in_flight_most


def test_without_a_place_at_the_large_model_the_draft_is_the_answer() -> None:
    full = Bulkhead(most=1, waiting=0, wait_s=1)
    scenario = drafts_alone(rate=20, escalation=1, large=LONG, large_bulkhead=full)
    found = simulate(scenario, seconds=50)
    assert found.degraded + found.escalated == found.answered == found.arrived
    assert found.degraded > 0.8 * found.arrived


def test_without_a_place_at_either_model_it_fails() -> None:
    full = Bulkhead(most=1, waiting=0, wait_s=1)
    found = simulate(
        drafts_alone(rate=50, small=LONG, large=LONG, small_bulkhead=full, large_bulkhead=full),
        seconds=50,
    )
    assert found.failed > 0.8 * found.arrived
    assert found.failed < found.shed


def test_who_waits_too_long_at_the_gate_is_refused() -> None:
    patient = drafts_alone(rate=8, concurrency=1, queue=10**6, queue_timeout_s=0.3)
    found = simulate(patient, seconds=50)
    assert found.refused > 0.2 * found.arrived
    assert found.p99_s <= 0.3 + FIXED.mean_s + 1e-9


def test_measured_times_are_drawn_as_they_are() -> None:
    times = MeasuredTimes.of_ms([100, 100, 400])
    assert (times.mean_s, times.cv) == pytest.approx((0.2, math.sqrt(0.5)))
    found = simulate(drafts_alone(rate=5, small=times), seconds=300)
    assert found.p50_s == pytest.approx(0.1)
    assert found.p99_s == pytest.approx(0.4)
    assert found.mean_s == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seconds": 0.0}, "seconds=0.0"),
        ({"seconds": math.inf}, "seconds=inf"),
        ({"seconds": 5.0, "warmup_s": -1.0}, "warmup_s=-1.0"),
        ({"seconds": 1e-6}, "nothing arrived"),
    ],
)
def test_times_that_are_none_are_refused(changes: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        simulate(drafts_alone(), **changes)


@pytest.mark.parametrize("seconds", [(), (0.0,), (1.0, -0.1), (math.nan,)])
def test_measured_times_that_are_none_are_refused(seconds: tuple[float, ...]) -> None:
    with pytest.raises(ConfigurationError, match="MeasuredTimes"):
        MeasuredTimes(seconds=seconds)


def test_without_simpy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cascade.fleet.simulation")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"agent-cascade\[fleet\]"):
        importlib.import_module("cascade.fleet.simulation")
