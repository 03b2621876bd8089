"""Chaos, small: all ways of asking over an upstream that fails, and what must hold all the same.

`benchmarks/chaos.py` is the same with thousands of requests; `docs/chaos.md` says what is checked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from cascade.models.base import guard
from tests.faults.chaos_plans import WAYS, plans
from tests.faults.chaos_running import Found, Settings, run
from tests.servers.faulty import FINE

SMALL = Settings(
    requests=200,
    at_once=24,
    deadline_s=3.0,
    # Where three test processes share two cores, only a request that hangs is late.
    slack_s=20.0,
    # Replies of many megabytes are left to the benchmark.
    grows_mb=512.0,
)
"""Some seconds of it."""


@pytest.fixture(scope="module")
def found() -> Iterator[Found]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "forbidden", False)  # the server is on this machine, and a fake
        yield asyncio.run(run(7, SMALL))


def test_a_small_chaos_run_finds_nothing_wrong(found: Found) -> None:
    assert not found.problems, found.examples


def test_each_of_its_requests_has_one_outcome_and_many_met_a_fault(found: Found) -> None:
    assert found.requests == found.outcomes.total() == SMALL.requests
    assert found.sent.total() - found.sent[FINE] > 20
    assert found.ways.keys() == WAYS.keys()


def test_a_plan_depends_on_its_seed_and_its_number_alone() -> None:
    first, again = (list(plans(1, 50, ["a", "b"], 2.0)) for _ in range(2))
    assert first == again
    assert first[:10] == list(plans(1, 60, ["a", "b"], 2.0))[:10]
    assert sum(plan.n for plan in first) == 50
    assert first != list(plans(2, 50, ["a", "b"], 2.0))
