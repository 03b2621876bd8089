"""The notebooks of examples/ run in a real kernel, and show what they give."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

import notebook as notebooks


@pytest.fixture(scope="module")
def executed() -> dict[str, Any]:
    return {path.stem: notebooks.executed(path) for path in notebooks.notebooks()}


@pytest.mark.parametrize("path", notebooks.notebooks(), ids=lambda path: path.name)
def test_a_notebook_shows_what_it_gives(executed: dict[str, Any], path: Path) -> None:
    kept = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(kept)
    now, before = notebooks.shown(executed[path.stem]), notebooks.shown(kept)
    assert notebooks.same(now, before), (
        f"{path.name} gives {now} and shows {before}: run `python scripts/notebook.py`"
    )


def test_the_calibration_is_better_than_the_raw_score(executed: dict[str, Any]) -> None:
    printed = "\n".join(notebooks.shown(executed["calibration"]))
    assert "120 examples, 0 failures" in printed
    assert "image/png" in printed
    found = re.search(r"Brier score: ([\d.]+) raw, ([\d.]+) calibrated", printed)
    assert found is not None
    raw, calibrated = map(float, found.groups())
    assert calibrated < raw
    harmful = re.findall(r"at most (\d+)% harm +\d+% +\d+% +(\d+)%", printed)
    assert harmful
    assert all(int(harm) <= int(bound) for bound, harm in harmful)


def test_figures_may_differ_and_words_may_not() -> None:
    assert notebooks.same(["right: 0.61"], ["right: 0.62"])
    assert not notebooks.same(["right: 0.61"], ["wrong: 0.61"])
