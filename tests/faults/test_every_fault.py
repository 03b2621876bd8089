"""Every fault at each tier, in both protocols, plain and streamed: no answer is lost, no money."""

from collections import Counter
from itertools import product

import pytest

from tests.faults.catalogue import FAULTS
from tests.faults.storm import LOSES_CONNECTIONS, Question, storm


def everything() -> list[Question]:
    """Each fault wherever it can strike."""
    kinds = [
        (fault, place, protocol, form)
        for fault in FAULTS
        for protocol, form, place in product(fault.protocols, fault.forms, ("small", "large"))
    ]
    return [Question(number, *kind) for number, kind in enumerate(kinds)]  # type: ignore[arg-type]


Storm = tuple[list[Question], Counter[str]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Storm:
    questions = everything()
    return questions, storm(questions, tmp_path_factory.mktemp("storm"))


def test_no_promise_is_broken(world: Storm) -> None:
    assert not world[1]


def test_each_fault_was_met(world: Storm) -> None:
    met = Counter[str]()
    for q in world[0]:
        met[q.fault.name if q.fault else ""] += q.met
    assert {name for name, times in met.items() if not times} <= LOSES_CONNECTIONS


def test_log_probs_that_lie_are_no_confidence(world: Storm) -> None:
    for q in world[0]:
        name = q.fault.name if q.fault else ""
        lies = name.startswith("log-probs") and name != "log-probs all zero"
        if lies and q.place == "small":
            assert q.result is not None, q.name
            assert q.result.confidence is None, q.name
            assert q.result.escalated, q.name
