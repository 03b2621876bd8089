"""Every example runs as it is, with the embedded model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import floors

EXAMPLES = sorted((floors.ROOT / "examples").glob("*.py"))
LIMIT_S = 120


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5


@pytest.mark.live
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(example: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, example],
        cwd=tmp_path,  # it may write files, and must not need those of the repository
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.strip(), "an example shows something"
    assert "Traceback" not in done.stderr
