"""Every fault at each tier, in both protocols, plain and streamed: no answer is lost, no money."""

from __future__ import annotations

from collections import defaultdict

import pytest

from tests.faults.catalogue import FAULTS
from tests.faults.storm import LOSES_CONNECTIONS, Question, World, storm


def everything() -> list[Question]:
    """Each fault wherever it can strike."""
    kinds = [
        (fault, place, protocol, form)
        for fault in FAULTS
        for protocol in fault.protocols
        for form in fault.forms
        for place in ("small", "large")
    ]
    return [Question(number, *kind) for number, kind in enumerate(kinds)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return storm(everything(), tmp_path_factory.mktemp("storm"))


def test_no_promise_is_broken(world: World) -> None:
    assert not world.problems()


def test_each_fault_was_met(world: World) -> None:
    met: dict[str, bool] = defaultdict(bool)
    for q in world.questions:
        name = q.fault.name if q.fault else ""
        met[name] |= any(call.fault == name for call in world.calls[q.number])
    assert {name for name, was in met.items() if not was} <= LOSES_CONNECTIONS


def test_log_probs_that_lie_are_no_confidence(world: World) -> None:
    for q in world.questions:
        lies = q.fault is not None and q.fault.name.startswith("log-probs")
        if lies and q.place == "small" and q.fault.name != "log-probs all zero":
            assert q.result is not None, q.name
            assert q.result.confidence is None, q.name
            assert q.result.escalated, q.name
