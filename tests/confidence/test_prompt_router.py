"""The router before the draft: who is sent straight to the large tier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from langchain_core.messages import HumanMessage

from cascade.confidence.prompt_router import PromptRouter, fit_prompt_router
from cascade.errors import ConfigurationError

RNG = np.random.default_rng(0)
HARD = RNG.random(400) < 0.5
QUESTIONS = [
    f"{'prove the theorem about the integral' if hard else 'name the capital city'} {i}"
    for i, hard in enumerate(HARD)
]
SMALL = np.where(HARD, RNG.random(400) < 0.2, RNG.random(400) < 0.95).astype(np.float64)
LARGE = (RNG.random(400) < 0.95).astype(np.float64)
ROUTER = fit_prompt_router(QUESTIONS, SMALL, LARGE, least_gain=0.3)


@pytest.mark.parametrize(
    ("question", "tier"),
    [("prove the theorem about the integral", "large"), ("name the capital city", None)],
)
def test_questions_on_which_the_small_model_fails_go_straight_to_the_large_one(
    question: str, tier: str | None
) -> None:
    assert ROUTER([HumanMessage("earlier"), HumanMessage(question)]) == tier


def test_the_larger_the_share_that_is_sent_on_the_lower_the_threshold() -> None:
    routers = [
        fit_prompt_router(QUESTIONS, SMALL, LARGE, large_share=share, tier="big")
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    thresholds = [router.threshold for router in routers]
    assert thresholds == sorted(thresholds, reverse=True)
    half = (routers[2].predict(QUESTIONS) > thresholds[2]).mean()
    assert half == pytest.approx(0.5, abs=0.1)
    assert routers[0].large == "big"


def test_questions_without_a_common_word_are_told_by_their_marks() -> None:
    router = fit_prompt_router([f"q{i}" for i in range(50)], SMALL[:50], LARGE[:50], least_gain=0.0)
    assert router.text.dimensions == 0
    assert np.isfinite(router.predict(["x?"])).all()


@pytest.mark.parametrize(
    "options",
    [{}, {"large_share": 0.5, "least_gain": 0.1}, {"large_share": 1.5}, {"large_share": -0.1}],
)
def test_a_router_without_one_clear_aim_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        fit_prompt_router(QUESTIONS, SMALL, LARGE, **options)  # type: ignore[arg-type]


def test_a_router_read_from_its_file_is_the_same(tmp_path: Path) -> None:
    ROUTER.save(tmp_path / "r.json")
    read = PromptRouter.load(tmp_path / "r.json")
    assert read == ROUTER
    assert (read.predict(QUESTIONS) == ROUTER.predict(QUESTIONS)).all()


def test_a_file_that_is_no_router_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        PromptRouter.load(tmp_path / "none.json")
    for content in (b"{}", b"\xff\xfe\x00"):
        (tmp_path / "r.json").write_bytes(content)
        with pytest.raises(ConfigurationError, match="no router"):
            PromptRouter.load(tmp_path / "r.json")
