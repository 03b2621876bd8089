"""The paths of docs/architecture.md are those that a question and its ledger entries take."""

from __future__ import annotations

import re
from itertools import dropwhile
from threading import Thread

import pytest

import floors
import traced
from cascade._words import percent

PAGE = floors.ROOT / "docs" / "architecture.md"
PATH = re.compile(r"<!-- path: (?P<name>.+?) -->\n(?P<steps>.*?)<!-- end of path -->", re.DOTALL)
STEP = re.compile(r"^\d+\. `(.+?:.+?)`: ", re.MULTILINE)

PATHS = {
    path["name"]: STEP.findall(path["steps"])
    for path in PATH.finditer(PAGE.read_text(encoding="utf-8"))
}


@pytest.fixture(scope="module")
def called() -> list[str]:
    return traced.escalated()


def first_wrong(steps: list[str], called: list[str]) -> str | None:
    """The first step that does not follow on the one before it; None where all do."""
    left = iter(called)
    for step in steps:
        if not any(function == step for function in left):
            return step
    return None


@pytest.mark.parametrize("name", ["of a question", "of a ledger entry"])
def test_the_steps_of_a_path_are_called_one_after_the_other(name: str, called: list[str]) -> None:
    steps = PATHS[name]
    from_here = list(dropwhile(lambda function: function != steps[0], called))
    assert len(steps) > 20
    assert first_wrong(steps, from_here) is None, "python scripts/traced.py prints the way as it is"


def test_a_step_that_is_gone_or_comes_too_early_is_named() -> None:
    called = ["a.py:f", "b.py:g", "a.py:f"]
    assert first_wrong(["a.py:f", "b.py:g"], called) is None
    assert first_wrong(["a.py:f", "b.py:h"], called) == "b.py:h"
    assert first_wrong(["b.py:g", "b.py:g"], called) == "b.py:g"


def test_what_other_threads_call_is_listed_too_and_nothing_after_the_end() -> None:
    with traced.calls() as listed:
        thread = Thread(target=percent, args=(0.5,))
        thread.start()
        thread.join()
    percent(0.5)
    assert listed == ["cascade/_words.py:percent"]
