"""Feature matrices of recorded answers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from cascade.errors import ConfigurationError
from cascade.evaluation import Outcome, Transcript
from cascade.evaluation.features import (
    answer_of,
    block_of,
    draft_block,
    normalise,
    panel_block,
    prompt_marks,
)
from cascade.evaluation.recorded import (
    LABELS_FOR_THE_PROMPT,
    choose_columns,
    confidence_features,
    features,
    record_pair,
)
from tests.evaluation.recordings import rows


def outcome(**more: Any) -> Outcome:
    given: dict[str, Any] = {"correct": 1.0, "input_tokens": 9, "output_tokens": 1}
    return Outcome(**{**given, "cost_usd": 0.001, **more})


@pytest.mark.parametrize(
    ("said", "form"),
    [("1,200.0", "1200"), ("$5", "5"), (" Paris ", "paris"), (None, ""), ("x" * 99, "x" * 80)],
)
def test_answers_are_compared_in_one_form(said: str | None, form: str) -> None:
    assert normalise(said) == form


def test_the_extracted_answer_counts_even_when_there_is_none() -> None:
    assert answer_of(outcome(output="so 5", pred="5")) == "5"
    assert answer_of(outcome(output="so 5", pred=None)) == ""
    assert answer_of(outcome(output="So 5")) == "so 5"


def test_option_logprobs_give_the_raw_score_first() -> None:
    block = draft_block([outcome(signals={"option_logprobs": np.log([0.2, 0.7, 0.1]).tolist()})])
    assert block.names[0] == "raw"
    assert block.column("raw")[0] == pytest.approx(math.log(0.7 / 0.3))
    assert block.column("margin")[0] == pytest.approx(math.log(0.7 / 0.2))
    assert block.column("is1")[0] == 1.0


@pytest.mark.parametrize("broken", [5.0, -9999.0, "x"])
def test_a_spoiled_logprob_counts_as_no_probability(broken: Any) -> None:
    block = draft_block([outcome(signals={"option_logprobs": [broken, math.log(0.5)]})])
    assert block.column("raw")[0] == pytest.approx(math.log(0.9999 / 0.0001))


def test_votes_give_their_share() -> None:
    votes = {"votes": ["5", "5.0", "7"], "n_samples": 4}
    block = draft_block([outcome(pred="5", signals=votes)])
    assert block.column("raw")[0] == pytest.approx(0.0)
    assert block.column("margin")[0] == pytest.approx(0.25)
    assert block.column("answered")[0] == 0.75
    assert block.column("distinct")[0] == 0.5


def test_a_recorded_share_goes_before_the_counted_one() -> None:
    votes = {"votes": ["5", "7"], "vote_share": 0.9}
    assert draft_block([outcome(pred="5", signals=votes)]).column("raw")[0] == pytest.approx(
        math.log(9)
    )


def test_an_answer_that_could_not_be_read_is_a_mark() -> None:
    block = draft_block([outcome(signals={"answer_extracted": False})])
    assert block.column("answered")[0] == 0.0


def test_votes_that_are_no_list_count_as_none() -> None:
    block = draft_block([outcome(pred="5", signals={"votes": "55"})])
    assert block.column("answered")[0] == 0.0


def test_a_recorded_confidence_is_a_score_where_nothing_else_is() -> None:
    block = draft_block([outcome(confidence=0.8, output_tokens=20), outcome(output_tokens=None)])
    assert block.column("raw")[0] == pytest.approx(math.log(4))
    assert math.isnan(block.column("raw")[1])
    assert block.column("log_length")[0] == pytest.approx(math.log(20))


def test_collected_features_come_in_the_order_of_trust() -> None:
    collected = {"prompt_words": 5.0, "logprob_mean": math.log(0.8), "p_true": 0.6}
    block = draft_block([outcome(features=collected)])
    assert block.names == ("raw", "logprob_mean", "p_true", "prompt_words")
    assert block.column("raw")[0] == pytest.approx(math.log(0.6 / 0.4))


def test_the_confidence_that_was_said_is_the_raw_score_of_collected_features() -> None:
    block = draft_block([outcome(features={"logprob_mean": -0.1}, confidence=0.75)])
    assert block.column("raw")[0] == pytest.approx(math.log(3))


def test_a_panel_says_who_agrees_and_what_it_costs() -> None:
    draft = outcome(output="A", signals={"option_logprobs": [-0.1, -3.0]})
    helpers = {
        "x": [outcome(output="A", signals={"option_logprobs": [-0.5, -1.0]})],
        "y": [outcome(output="B", cost_usd=None)],
    }
    block = panel_block([draft], helpers)
    assert block.column("panel_same")[0] == 0.5
    assert block.column("agree:x")[0] == 1.0
    assert block.column("p_draft:x")[0] == -0.5
    assert math.isnan(block.cost[0])


def test_the_prompt_shows_marks_of_difficulty() -> None:
    marks = prompt_marks("Which is NOT 7 + 5 = __?\nA. 12\nB. none of the above")
    assert marks["negation"] == 1.0
    assert marks["blank"] == 1.0
    assert marks["all_of_above"] == 1.0
    assert marks["numeric_options"] == 0.5
    assert marks["digits"] == pytest.approx(math.log1p(2))
    assert prompt_marks("")["word_length"] == 0.0


def test_columns_are_found_by_name_and_missing_ones_are_unknown() -> None:
    block = block_of([{"a": 1.0, "b": 2.0}])
    assert block.select(("b", "c"))[0].tolist() == pytest.approx([2.0, math.nan], nan_ok=True)


def test_rows_without_both_models_or_their_costs_are_left_out() -> None:
    whole = rows(3)
    lacking = Transcript(dataset="d", id="x", prompt="?", models={"small": outcome()})
    unpriced = Transcript(
        dataset="d",
        id="y",
        prompt="?",
        models={"small": outcome(), "large": outcome(cost_usd=None)},
    )
    found = record_pair([*whole, lacking, unpriced], "small", "large")
    assert len(found) == 3
    assert found.left_out == 2
    assert found.unit == "dollars"


def test_without_any_cost_large_answers_are_counted() -> None:
    found = record_pair(rows(3, small_cost=None, large_cost=None), "small", "large")
    assert found.unit == "calls"
    assert found.large_cost.tolist() == [1, 1, 1]
    assert found.small_cost.tolist() == [0, 0, 0]
    assert found.candidates == []


def test_a_pair_that_is_not_there_is_an_error_with_the_models_there_are() -> None:
    with pytest.raises(
        ConfigurationError, match=r"no row has both 'small' and 'tiny'\. Models .*: small \(3\)"
    ):
        record_pair(rows(3), "small", "tiny")


def test_helpers_are_cheap_and_the_most_accurate_first() -> None:
    found = record_pair(rows(50, helper=True), "small", "large")
    assert found.helpers(np.arange(50), 3) == ("helper",)
    dear = record_pair(rows(50, helper=True, small_cost=0.0005), "small", "helper")
    assert dear.helpers(np.arange(50), 3) == ("large",)


def test_votes_need_no_helpers() -> None:
    found = record_pair(rows(50, helper=True, votes=True), "small", "large")
    assert found.helpers(np.arange(50), 3) == ()


def test_few_labels_leave_the_prompt_out_where_the_draft_has_signals() -> None:
    found = record_pair(rows(20), "small", "large")
    few = choose_columns(found, "draft", LABELS_FOR_THE_PROMPT - 1, (), 3)
    many = choose_columns(found, "draft", LABELS_FOR_THE_PROMPT, (), 3)
    assert few.prompt == ()
    assert few.text == 0
    assert many.prompt == found.prompt.names
    assert features(found, many, (), np.zeros((20, 3))).shape == (20, len(many.spread))


def test_a_model_that_lacks_an_answer_somewhere_is_no_helper() -> None:
    first, *others = rows(5, helper=True)
    lacking = {**first.models, "helper": outcome(cost_usd=None)}
    found = record_pair([first.model_copy(update={"models": lacking}), *others], "small", "large")
    assert found.candidates == []


def test_without_signals_there_is_no_raw_score() -> None:
    found = record_pair(rows(20, signals=False), "small", "large")
    assert np.isnan(found.raw_score()).all()
    assert np.isnan(confidence_features(found)[:, 0]).all()


def test_the_agreement_of_others_stands_in_for_a_signal() -> None:
    found = record_pair(rows(20, signals=False, helper=True), "small", "large")
    plain, helped = (confidence_features(found, helpers) for helpers in ((), ("helper",)))
    assert helped.shape[1] == plain.shape[1] + found.panel(("helper",)).values.shape[1]


def test_the_confidence_looks_at_all_collected_features() -> None:
    collected = [
        row.model_copy(
            update={
                "models": {
                    **row.models,
                    "small": outcome(
                        features={"p_true": 0.5, "answer_words": 3.0}, output_tokens=9
                    ),
                }
            }
        )
        for row in rows(3)
    ]
    found = record_pair(collected, "small", "large")
    assert confidence_features(found).shape == (3, 1 + 2 + 5)
    long = record_pair(rows(3, output_tokens=30), "small", "large")
    assert (
        confidence_features(long).shape[1]
        == confidence_features(record_pair(rows(3), "small", "large")).shape[1] + 1
    )
