"""Answers that are programs, run with tests; each costs a process, so they are few."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest

from cascade.errors import ConfigurationError, InputError
from cascade.evaluation.scorers import CodeScorer, Reference
from cascade.evaluation.scorers.code import code_in

ADD = "Sure:\n```python\ndef add(a, b):\n    return a + b\n```\nDone."
TESTS = "assert add(1, 2) == 3"
DATACLASS = (
    "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    "@dataclass\nclass P:\n    x: int\ndef add(a, b): return P(a + b).x"
)


@pytest.mark.parametrize(
    ("answer", "tests"),
    [(ADD, TESTS), (DATACLASS, [TESTS, "assert add(0, 0) == 0"])],
    ids=["fenced", "bare, with two tests"],
)
async def test_code_that_passes_is_right(answer: str, tests: Reference) -> None:
    assert (await CodeScorer().score(answer, tests)).value == 1.0


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        ("def add(a, b): return a - b", "AssertionError"),
        ("def add(a, b) return", "SyntaxError"),
        ("import sys\nsys.exit(0)", "ended before the tests did"),
        ("import os\nos._exit(0)", "ended before the tests did"),
        ("while True: pass", "not done after 1 s"),
        ("import os\nprint(os.environ['SECRET'])", "KeyError"),
        ("import cascade_tests_are_not_here", "ModuleNotFoundError"),
        pytest.param(
            "x = bytearray(4 * 2**30)",
            "MemoryError",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="no limit on memory here"),
        ),
    ],
)
async def test_code_that_fails_is_wrong_and_says_why(
    answer: str, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "s")
    found = await CodeScorer(timeout_s=1 if "while" in answer else 20).score(answer, TESTS)
    assert found.value == 0.0
    assert note in found.note


async def test_what_the_code_has_started_ends_with_it() -> None:
    child = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'while True: pass'])"
    started = time.monotonic()
    found = await CodeScorer(timeout_s=2).score(child, TESTS)
    assert found.value == 0.0
    assert time.monotonic() - started < 15


async def test_a_cancelled_run_leaves_no_process() -> None:
    running = asyncio.create_task(CodeScorer().score("while True: pass", TESTS))
    await asyncio.sleep(0.3)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_reference_without_tests_is_an_error() -> None:
    with pytest.raises(InputError, match="code"):
        await CodeScorer().score(ADD, None)


@pytest.mark.parametrize("limit", ["timeout_s", "memory_mb"])
def test_a_limit_is_above_0(limit: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{limit}=0"):
        CodeScorer(**{limit: 0})


def test_all_blocks_of_an_answer_are_its_code() -> None:
    assert code_in("a\n```py\nx = 1\n```\nb\n```\ny = 2\n```") == "x = 1\n\n\ny = 2\n"
    assert code_in("```python\nx = 1") == "x = 1"
