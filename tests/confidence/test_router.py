"""Topics of prompts, against scikit-learn, and the router before the draft."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from langchain_core.messages import HumanMessage
from pydantic import ValidationError
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

from cascade.confidence.router import PromptRouter, fit_prompt_router
from cascade.confidence.text import TextEncoder, fit_text_encoder
from cascade.errors import ConfigurationError

TOPICS = ["theorem proof integral", "court contract statute", "cell enzyme protein"]


def prompts(n: int, *, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        " ".join(rng.choice(TOPICS[i % 3].split(), 4)) + f" about w{rng.integers(40)}, The END"
        for i in range(n)
    ]


@pytest.mark.parametrize("n", [120, 1100])
def test_the_encoder_equals_the_pipeline_of_scikit_learn_on_unseen_prompts(n: int) -> None:
    known, unseen = prompts(n, seed=0), prompts(50, seed=1)
    words = TfidfVectorizer(
        sublinear_tf=True,
        min_df=3 if n >= 1000 else 2,
        stop_words="english",
        max_features=8000,
    )
    pipeline = make_pipeline(words, TruncatedSVD(4, random_state=0)).fit(known)
    encoder = fit_text_encoder(known, dimensions=4)
    assert encoder.dimensions == 4
    assert encoder.transform(unseen) == pytest.approx(pipeline.transform(unseen))
    read = TextEncoder.model_validate_json(encoder.model_dump_json())
    assert read == encoder, "though one has its arrays made"
    assert (read.transform(unseen) == encoder.transform(unseen)).all()


def test_a_prompt_without_a_known_word_is_the_origin() -> None:
    encoder = fit_text_encoder(prompts(120, seed=0), dimensions=4)
    assert (encoder.transform(["", "zzz unheard", "the and of"]) == 0).all()


@pytest.mark.parametrize(
    "known",
    [
        [],
        ["the and of"] * 30,
        [f"unique{i}" for i in range(30)],
        ["shared words"] * 19,
        ["word"] * 40,
    ],
    ids=["none", "stop words", "nothing shared", "too few", "one word"],
)
def test_prompts_that_share_nothing_give_a_space_without_dimensions(known: list[str]) -> None:
    encoder = fit_text_encoder(known)
    assert encoder.dimensions == 0
    assert encoder.transform(["shared words", ""]).shape == (2, 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"vocabulary": {"a": 3}, "weights": (1.0,), "components": ((1.0,),)},
        {"vocabulary": {"a": 0}, "weights": (1.0, 1.0), "components": ((1.0,), (1.0, 2.0))},
    ],
)
def test_an_encoder_whose_tables_do_not_fit_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TextEncoder.model_validate(fields)


# --- the router

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
    other = json.loads(ROUTER.model_dump_json())
    other["text"] = {"vocabulary": {}, "weights": [], "components": []}
    for content in (b"{}", b"\xff\xfe\x00", json.dumps(other).encode()):
        (tmp_path / "r.json").write_bytes(content)
        with pytest.raises(ConfigurationError, match="no router"):
            PromptRouter.load(tmp_path / "r.json")
