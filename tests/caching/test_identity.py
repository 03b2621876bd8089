"""Two set-ups share answers only where they answer alike; functions are known by what they do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from langgraph.cache.memory import InMemoryCache

from cascade import Cascade
from cascade.testing import ScriptedModel, reply

Judge = Callable[[str, str], Any]


def above(threshold: float) -> Judge:
    return lambda question, answer: threshold < 0.5


def limited(question: str, answer: str, threshold: float = 0.1) -> bool:
    return threshold < 0.5


class Judging:
    """Its method counts with what is known of it: the name of its class."""

    def judge(self, question: str, answer: str) -> bool:
        return True


class Other(Judging):
    """Another one, with the same method."""


def key(judge: Judge) -> str:
    """The identity of a cascade with this verifier."""
    recall: Any = None
    small = ScriptedModel([reply("a", probability=0.9)])
    cascade = Cascade(small, ScriptedModel("b"), verifier=judge, cache=InMemoryCache())
    for node in cascade._builder.nodes.values():
        recall = recall or getattr(node.runnable, "_recall", None)
    found: str = recall.identity
    return found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda _q, _a: True, lambda _q, _a: False),
        (lambda _q, a: "x" in a, lambda _q, a: "y" in a),
        (lambda _q, a: a in ("x", "y"), lambda _q, a: a in ("x", "z")),
        (lambda _q, a: a.isalpha(), lambda _q, a: a.isdigit()),
        (lambda _q, a: any(c == "x" for c in a), lambda _q, a: any(c == "y" for c in a)),
        (above(0.1), above(0.9)),
        (partial(limited, threshold=0.1), partial(limited, threshold=0.9)),
        (Judging().judge, Other().judge),
    ],
)
def test_functions_that_do_different_things_are_different(one: Judge, other: Judge) -> None:
    assert key(one) != key(other)


@pytest.mark.parametrize(
    "make",
    [
        lambda: above(0.1),
        lambda: partial(limited, threshold=0.1),
        lambda: Judging().judge,
        lambda: lambda _q, a: a in {"x", "y", "z"},
    ],
)
def test_functions_that_are_made_again_are_the_same(make: Callable[[], Judge]) -> None:
    assert key(make()) == key(make())


def test_a_cell_that_is_not_filled_yet_is_left_out() -> None:
    def judge(question: str, answer: str) -> bool:
        return later

    assert key(judge)
    later = True
    assert judge("", "")


def test_they_are_the_same_in_another_process() -> None:
    said = "from tests.caching import test_identity as t; print(t.key(t.shared()))"
    found = {
        subprocess.run(
            [sys.executable, "-c", said],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
        ).stdout
        for _ in range(2)
    }
    assert len(found) == 1


def shared() -> Judge:
    return lambda _q, a: a in {"x", "y", "z"} or any(c in ("p", "q") for c in a)
