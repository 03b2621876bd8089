from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cascade.cli import evaluate
from cascade.evaluation import plots
from tests.evaluation.recordings import rows, write

APP = typer.Typer()
APP.command(epilog=evaluate.EXAMPLE)(evaluate.evaluate)


def run(arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(APP, shlex.split(arguments))
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else " ".join(result.output.replace("│", " ").split())


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write(tmp_path_factory.mktemp("data") / "two.jsonl", rows(120)))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write(tmp_path_factory.mktemp("data") / "three.jsonl", rows(120, helper=True)))


def test_two_models_need_no_names(recording: Path) -> None:
    said = run(f"{recording}")
    assert "small alone" in said
    assert "Fitted on 60 rows, all figures from the other 60" in said


def test_one_name_is_enough_where_there_are_two(recording: Path) -> None:
    assert json.loads(run(f"{recording} --large large --json"))["small"] == "small"


def test_json_holds_figures_with_their_intervals(recording: Path) -> None:
    command = f"{recording} --price-of-error 0.001 --max-harm 0.3 --fit-share 0.6 --seed 2 --json"
    document = json.loads(run(command), parse_constant=pytest.fail)
    assert document["fit_rows"] == 72
    assert len(document["accuracy_small"]) == 3
    assert document["economic"]["price_of_error"] == 0.001
    assert document["options"]["seed"] == 2


def test_the_page_asks_no_other_host_for_anything(recording: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    run(f"{recording} --price-of-error 0.001 --max-harm 0.3 --html {page}")
    text = page.read_text()
    assert not re.search(r"""(?:https?:)?//|url\(|@import|<script|<link|<img| src=""", text)
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert text.count("<svg") == 2
    assert "<h2>Policies</h2>" in text


def test_names_of_models_cannot_write_into_the_page(tmp_path: Path) -> None:
    named = [
        row.model_copy(update={"models": {"<b>s": row.models["small"], "l": row.models["large"]}})
        for row in rows(80, signals=False)
    ]
    page = tmp_path / "page.html"
    run(f"{write(tmp_path / 'x.jsonl', named)} --html {page}")
    assert "<b>s" not in page.read_text()
    assert page.read_text().count("<svg") == 1


def test_the_picture_is_a_png(recording: Path, tmp_path: Path) -> None:
    picture = tmp_path / "curves.png"
    run(f"{recording} --png {picture}")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_a_confidence_there_is_one_picture_less(tmp_path: Path) -> None:
    picture = tmp_path / "curve.png"
    run(f"{write(tmp_path / 'silent.jsonl', rows(80, signals=False))} --png {picture}")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_extra_is_named(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    assert "agent-cascade[plot]" in run(f"{recording} --png {tmp_path / 'x.png'}", code=2)


def test_without_scikit_learn_the_extra_is_named(
    recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "find_spec", lambda name: None)
    assert "agent-cascade[calibrate]" in run(f"{recording}", code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "which two? Give --small and --large. Models with their rows: helper (120), large"),
        ("--small tiny", "--small tiny: the file has no such model"),
        ("--small small --large small", "--small and --large are both small"),
        ("--small small --large large --fit-share 0.99", "fit_share=0.99"),
        ("--small small --large large --html /nowhere/x.html", "/nowhere/x.html cannot be written"),
    ],
)
def test_a_wrong_use_is_named(three: Path, arguments: str, message: str) -> None:
    assert message in run(f"{three} {arguments}", code=2)


def test_without_costs_somebody_has_to_say_which_is_the_small_one(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl", rows(50, small_cost=None))
    assert "The costs of small are unknown" in run(f"{file}", code=2)
