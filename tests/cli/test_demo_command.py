"""`cascade demo`, as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cascade.cli import app

RUN = CliRunner()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--n", "0"], "0"),
        (["--large", "nobody:x"], "nobody"),
        (["--large-price", "cheap"], "cheap"),
        (["--threshold", "2"], "2"),
    ],
)
def test_what_cannot_work_is_wrong_usage(options: list[str], words: str, tmp_path: Path) -> None:
    found = RUN.invoke(app, ["demo", "--out", str(tmp_path), *options])
    assert found.exit_code == 2
    assert words in found.stderr


@pytest.mark.live
def test_it_writes_figures_for_machines_a_page_and_a_picture(tmp_path: Path) -> None:
    found = RUN.invoke(app, ["demo", "--n", "8", "--json", "--out", str(tmp_path)])
    assert found.exit_code == 0, found.output
    figures = json.loads(found.stdout)
    assert figures["facts"]["n"] == 8
    assert figures["accuracy_small"]["n"] == 8
    assert 0 <= figures["escalation_rate"]["value"] <= 1
    assert {path.name for path in tmp_path.iterdir()} == {"demo.html", "demo.png"}


@pytest.mark.live
def test_a_person_reads_who_ran_and_what_it_cost(tmp_path: Path) -> None:
    found = RUN.invoke(app, ["demo", "--n", "8", "--out", str(tmp_path)])
    assert found.exit_code == 0, found.output
    assert "RECORDED" in found.stderr
    assert "LIVE" in found.stderr
    for words in ("small alone", "escalation rate", "AUROC", "self_check", "demo.html"):
        assert words in found.stdout
