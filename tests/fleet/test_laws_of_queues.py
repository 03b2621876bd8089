from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.fleet.laws import (
    delay_in_large_pools,
    erlang_b,
    erlang_c,
    in_system,
    mean_wait,
    staffed,
    wait_quantile,
    waits_longer,
)

RATES = st.floats(0.01, 500)
SECONDS = st.floats(0.001, 20)
SPREADS = st.floats(0, 5)
SERVERS = st.integers(1, 300)


def poisson(load: float, number: int) -> float:
    return math.exp(number * math.log(load) - math.lgamma(number + 1) - load)


@pytest.mark.parametrize(("load", "servers"), [(1, 1), (2, 2), (10, 10), (100, 117), (0.3, 4)])
def test_erlangs_formulas_are_their_definitions(load: float, servers: int) -> None:
    full = poisson(load, servers)
    below = sum(poisson(load, number) for number in range(servers))
    assert erlang_b(load, servers) == pytest.approx(full / (below + full))
    if load < servers:
        queue = full * servers / (servers - load)
        assert erlang_c(load, servers) == pytest.approx(queue / (below + queue))


def test_without_servers_all_are_lost_and_without_load_nobody_waits() -> None:
    assert erlang_b(3, 0) == 1
    assert erlang_c(0, 3) == 0


@given(load=st.floats(0.05, 0.95), seconds=SECONDS, cv=SPREADS)
def test_one_server_is_pollaczek_and_khinchine(load: float, seconds: float, cv: float) -> None:
    rate = load / seconds
    second_moment = seconds**2 * (1 + cv**2)
    expected = rate * second_moment / (2 * (1 - load))
    assert mean_wait(rate, seconds, 1, cv=cv) == pytest.approx(expected)


def test_two_exponential_servers_wait_as_the_textbook_says() -> None:
    # M/M/2: W = ρ²·S / (1 − ρ²)
    assert mean_wait(1.5, 1.0, 2) == pytest.approx(0.75**2 / (1 - 0.75**2))


@given(load=st.floats(0.01, 400), servers=SERVERS)
def test_more_servers_make_fewer_wait(load: float, servers: int) -> None:
    assert erlang_c(load, servers + 1) <= erlang_c(load, servers)
    assert erlang_c(1.1 * load, servers) >= erlang_c(load, servers)
    assert 0 <= erlang_b(load, servers) <= erlang_c(load, servers) <= 1


@given(rate=RATES, seconds=SECONDS, servers=SERVERS, cv=SPREADS)
def test_waits_grow_with_the_rate_and_the_spread(
    rate: float, seconds: float, servers: int, cv: float
) -> None:
    wait_s = mean_wait(rate, seconds, servers, cv=cv)
    assert mean_wait(1.05 * rate, seconds, servers, cv=cv) >= wait_s >= 0
    assert mean_wait(rate, seconds, servers, cv=cv + 0.1) >= wait_s


@given(rate=RATES, seconds=SECONDS, servers=st.integers(1, 100), parts=st.integers(2, 5))
def test_one_pool_waits_no_longer_than_its_parts(
    rate: float, seconds: float, servers: int, parts: int
) -> None:
    together = mean_wait(parts * rate, seconds, parts * servers)
    assert together <= mean_wait(rate, seconds, servers) * (1 + 1e-9)


@given(load=st.floats(0.05, 0.99), servers=SERVERS, cv=SPREADS, share=st.floats(0.5, 0.999))
def test_a_quantile_is_the_inverse_of_the_share_that_waits_longer(
    load: float, servers: int, cv: float, share: float
) -> None:
    rate = load * servers
    wait_s = wait_quantile(share, rate, 1.0, servers, cv=cv)
    longer = waits_longer(wait_s, rate, 1.0, servers, cv=cv)
    assert longer <= 1 - share + 1e-9
    if wait_s > 0:
        assert longer == pytest.approx(1 - share)


@settings(max_examples=60)
@given(rate=RATES, seconds=SECONDS, cv=SPREADS, wait=st.floats(0, 3))
def test_staffing_is_enough_and_one_server_fewer_is_not(
    rate: float, seconds: float, cv: float, wait: float
) -> None:
    wait_s = wait * seconds
    servers = staffed(rate, seconds, cv=cv, wait_s=wait_s)
    assert waits_longer(wait_s, rate, seconds, servers, cv=cv) <= 0.01 + 1e-9
    if servers > 1:
        assert waits_longer(wait_s, rate, seconds, servers - 1, cv=cv) > 0.01
    assert staffed(1.2 * rate, seconds, cv=cv, wait_s=wait_s) >= servers
    assert staffed(rate, seconds, cv=cv, wait_s=wait_s + seconds) <= servers


def test_servers_may_be_kept_below_being_busy_all_the_time() -> None:
    assert staffed(1000, 1.0, wait_s=1.0, busiest=0.8) == 1250
    assert staffed(1000, 1.0, wait_s=1.0) < 1100


def test_what_cannot_keep_up_waits_for_ever() -> None:
    assert erlang_c(5, 5) == 1
    assert mean_wait(5, 1, 5) == math.inf
    assert wait_quantile(0.5, 6, 1, 5) == math.inf
    assert waits_longer(1000, 6, 1, 5) == 1


@pytest.mark.parametrize("spare", [0.3, 1.0, 2.0])
def test_large_pools_are_those_of_halfin_and_whitt(spare: float) -> None:
    load = 40_000.0
    servers = round(load + spare * math.sqrt(load))
    assert erlang_c(load, servers) == pytest.approx(delay_in_large_pools(spare), rel=0.02)


def test_the_largest_pools_take_no_time_and_join_the_others() -> None:
    for spare in (0.5, 1.5):
        below, above = (
            erlang_c(load, round(load + spare * math.sqrt(load))) for load in (999_999.0, 1_000_001)
        )
        assert below == pytest.approx(above, rel=0.01)
    assert staffed(1e9, 1.0, wait_s=0.1, busiest=0.9) == pytest.approx(1e9 / 0.9)
    assert erlang_c(1e9, 2 * 10**9) == 0


def test_littles_law_is_a_product() -> None:
    assert in_system(12, 2.5) == 30
