"""The page and the picture of a run."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cascade._words import dollars
from cascade.demo.page import to_page
from cascade.demo.picture import draw
from cascade.demo.words import short_name
from cascade.evaluation.drawing import ticks
from tests.demo.made import FOUR, findings, outcome

PAGE = to_page(findings())
VOID = {"meta", "circle", "path", "br"}


class Checker(HTMLParser):
    """Collects tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            self.wrong.append(tag)


def test_the_page_asks_no_host_for_anything() -> None:
    assert not re.search(r"https?:|//\w|url\(|@import|<script|<link|<img|<iframe", PAGE)
    assert "default-src 'none'" in PAGE


def test_the_page_is_well_formed() -> None:
    checker = Checker()
    checker.feed(PAGE)
    assert checker.wrong == []
    assert checker.open == []


def test_text_from_models_and_users_is_escaped() -> None:
    assert "<i>Milan" not in PAGE
    assert "&lt;i&gt;Milan&lt;/i&gt;" in PAGE
    assert "&lt;b&gt;Italy&lt;/b&gt;" in PAGE
    assert "qwen<2.5>" not in PAGE
    assert "&lt;much&gt;" in PAGE


def test_the_page_fits_a_phone_and_both_colour_schemes() -> None:
    assert "width=device-width" in PAGE
    assert "prefers-color-scheme: dark" in PAGE


def test_the_page_says_what_was_recorded_and_assumed() -> None:
    assert "<b>recorded</b>" in PAGE
    assert "recorded on a day" in PAGE
    assert "Assumed: small costs $0.05 per hour." in PAGE
    assert "50.0 %" in PAGE
    assert "25.0 %" in PAGE
    assert "saved against large alone" in PAGE


def test_a_loss_is_called_a_loss() -> None:
    assert "lost against large alone" in to_page(findings((outcome(True, True, 0.1),)))


def test_a_live_run_without_comparison_leaves_out_what_is_not_known() -> None:
    page = to_page(
        findings((*FOUR, outcome(True, None, 0.9)), large_source="live", large_alone=False)
    )
    assert "--compare" in page
    assert "Cost against quality" not in page
    assert "running now" in page


def test_without_prices_the_curve_is_still_drawn() -> None:
    page = to_page(findings((outcome(True, True, 0.9, priced=False), FOUR[3])))
    assert "A price is not known" in page
    assert "saved against" not in page


def test_degraded_answers_are_told() -> None:
    assert "3 answers are drafts" in to_page(replace(findings(), degraded=3))


def test_a_draft_without_confidence_and_an_empty_answer_are_shown() -> None:
    page = to_page(findings((outcome(False, False, None), FOUR[0])))
    assert "(nothing)" in page


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "demo.png"
    assert draw(findings(), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000


def test_the_picture_is_drawn_without_a_curve(tmp_path: Path) -> None:
    path = tmp_path / "demo.png"
    assert draw(findings((*FOUR, outcome(True, None, 0.9))), path)
    assert path.stat().st_size > 5_000


def test_without_matplotlib_there_is_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert not draw(findings(), tmp_path / "demo.png")
    assert not (tmp_path / "demo.png").exists()


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 20, [0, 5, 10, 15, 20]),
        (50, 90, [50, 60, 70, 80, 90]),
        (0, 0.9, [0, 0.2, 0.4, 0.6, 0.8]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_names_of_points_in_the_same_place_stand_below_each_other() -> None:
    # Nothing to gain: the oracle is where the small model alone is.
    page = to_page(findings((outcome(True, True, 0.9), outcome(True, True, 0.95))))
    names = dict(re.findall(r'<text class="name (\w+)"[^>]* y="([\d.]+)"', page))
    assert set(names) == {"oracle", "small", "large", "cascade"}
    assert abs(float(names["oracle"]) - float(names["small"])) >= 15


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (None, "unknown"),
        (0, "$0.00"),
        (12.3456, "$12.35"),
        (0.000123456, "$0.000123"),
        (-1, "−$1.00"),
    ],
)
def test_dollars_keep_three_digits(amount: float | None, words: str) -> None:
    assert dollars(amount) == words


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("llamacpp:smollm2-135m", "smollm2-135m"),
        ("ollama:qwen2.5:3b", "qwen2.5:3b"),
        ("qwen", "qwen"),
    ],
)
def test_a_short_name_has_no_provider(model: str, name: str) -> None:
    assert short_name(model) == name
