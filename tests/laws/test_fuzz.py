"""The search for bytes that make a reader fail begins, and finds nothing in a moment.

`python scripts/fuzz.py --seconds 600` is the longer search.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from environments import NoEnvironmentError, python_with

import fuzz

READERS = ("gguf_heads",)


def test_a_short_search_reaches_new_lines_and_finds_nothing(tmp_path: Path) -> None:
    try:
        python = python_with(fuzz.ATHERIS)
    except NoEnvironmentError as error:
        pytest.skip(str(error))
    only = [word for name in READERS for word in ("--only", name)]
    command = [python, fuzz.__file__, "--seconds", "1", "--corpus", tmp_path, *only]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    for name in READERS:
        assert len(list((tmp_path / name).iterdir())) > 1


def test_a_reader_that_fails_is_a_finding_that_is_kept(tmp_path: Path) -> None:
    def fail(data: bytes) -> None:
        raise KeyError(data)

    kept = fuzz._keeping(fail, tmp_path / "a-crash")
    with pytest.raises(KeyError):
        kept(b"odd")
    (found,) = tmp_path.glob("a-crash-*")
    assert found.read_bytes() == b"odd"


def test_what_it_found_is_told(tmp_path: Path) -> None:
    searched = fuzz.Searched("gguf_heads", 1_000, 3, [tmp_path / "x"], "")
    assert searched.line.split() == ["gguf_heads", "1,000", "3", str(tmp_path / "x")]
