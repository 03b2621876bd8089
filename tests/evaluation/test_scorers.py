import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.errors import ConfigurationError, InputError
from cascade.evaluation.scorers import Reference, Scorer, as_scorer, ask_judge
from cascade.testing import ScriptedModel

QUESTION = "Example\nA. red\nB. blue\n\nA dog?\nA. plant\nB. living animal\nC. animal\nD. 12 km"


def score(spec: str, answer: str, reference: Reference, question: str = "") -> float | None:
    return asyncio.run(as_scorer(spec).score(answer, reference, question=question))


RIGHT: list[tuple[str, str, Reference]] = [
    ("exact", "The answer is Paris.", "paris"),
    ("exact", "  paris ", ["London", "Paris"]),
    ("exact", "A", "a"),
    ("numeric", "So she has 1,234 apples.", "1234"),
    ("numeric", "reasoning 3 + 4 = 7\n#### 7", "#### 7"),
    ("numeric", "#### 18.\n(see 5 notes)", 18),
    ("numeric", r"thus \boxed{\frac{3}{4}} of 100", "0.75"),
    ("numeric", "Answer: We begin with 3 + 4\nans = 7", "7"),
    ("numeric", "Answer: the sum of all three, so 9 at last and 10", "10"),
    ("numeric", "the total is $-3.50", "-3.5"),
    ("numeric", "50%", "0.5"),
    ("numeric", "0.5", "50 %"),
    ("numeric", "1.2 × 10^3", "1200"),
    ("numeric", "6.02e23", "6.02 * 10^{23}"),
    ("numeric", "**7**", [6, 7]),
    ("choice", "B", "B"),
    ("choice", "(B)", "b"),
    ("choice", "The answer is (B) because A is wrong.", "B"),
    ("choice", r"so \boxed{\text{B}}", "B"),
    ("choice", "First A. looks right, but (B) is better.", "B"),
    ("choice", "I would go for B here", "B"),
    ("choice", "The answer is a living animal", "B"),
    ("choice", "It must be a plant, surely.", "plant"),
    ("choice", "12 km", ["D", "C"]),
    ("choice", "C", "animal"),
    ("choice", "The answer is not A but C.", "C"),
    ("choice", "The answer is Z, no: (B)", "B"),
    ("contains", "It is in Paris, France", "paris"),
    ("contains", "costs $5 (net)", "$5"),
    ("json", 'Here: ```json\n{"a": 1, "b": " x "}\n```', {"a": 1.0, "b": "x"}),
    ("json", '{"a": 1, "extra": true}', '{"a": 1}'),
    ("json", 'so {"a": {"b": [1, {"c": null}]}} it is', {"a": {"b": [1, {"c": None}]}}),
    ("json", 'the list [{"a": 1}]', [{"a": 1}]),
]
WRONG: list[tuple[str, str, Reference]] = [
    ("exact", "the", "a"),
    ("exact", "", "Paris"),
    ("numeric", "no number here", "7"),
    ("numeric", "1e999999", "7"),
    ("numeric", "5", "0.5"),
    ("numeric", "0.2001", "0.2"),
    ("choice", "I do not know", "B"),
    ("choice", "a plant or an animal", "C"),
    ("contains", "Parisian", "Paris"),
    ("json", "no JSON", {"a": 1}),
    ("json", "{broken]", {"a": 1}),
    ("json", '{"a": "1"}', {"a": 1}),
    ("json", '{"a": true}', {"a": 1}),
    ("json", '{"a": 1}', {"a": [1]}),
    ("json", '{"a": 1%s}' % ("0" * 400), {"a": 1}),
]


@pytest.mark.parametrize(
    ("spec", "answer", "reference", "expected"),
    [*((*case, 1.0) for case in RIGHT), *((*case, 0.0) for case in WRONG)],
)
def test_answers_are_scored(spec: str, answer: str, reference: Reference, expected: float) -> None:
    assert score(spec, answer, reference, QUESTION) == expected


@pytest.mark.parametrize(
    ("spec", "reference", "message"),
    [
        ("exact", None, "None is nothing"),
        ("exact", [], "is nothing"),
        ("exact", "  ", "is nothing"),
        ("exact", ["a", None], "is nothing"),
        ("numeric", "none", "no number in the reference 'none'"),
        ("choice", "mineral", "neither a letter nor one of the options of the question"),
        ("json", "text", "is not JSON"),
    ],
)
def test_an_impossible_reference_is_an_error(spec: str, reference: Reference, message: str) -> None:
    with pytest.raises(InputError, match=message):
        score(spec, "answer", reference)


@given(
    spec=st.sampled_from(["exact", "contains", "numeric", "choice", "json"]),
    answer=st.text() | st.from_regex(r"[-$\d,./% eE()A-D\n]{0,30}", fullmatch=True),
    question=st.text() | st.just(QUESTION),
)
def test_every_answer_has_a_score(spec: str, answer: str, question: str) -> None:
    references: dict[str, Reference] = {"numeric": 7, "choice": "B", "json": {"a": 1}}
    assert score(spec, answer, references.get(spec, "7"), question) in (0.0, 1.0)


@given(value=st.floats(-1e12, 1e12).map(lambda value: round(value, 4)))
def test_a_number_is_itself_however_it_is_written(value: float) -> None:
    assert score("numeric", f"so it is {value:,.4f} in total", value) == 1.0
    assert score("numeric", f"#### {value:.4f}", f"{value:.4f}") == 1.0


@pytest.mark.parametrize("spec", ["numerical", "", "exact:1", "judge", "judge:gpt", 3])
def test_a_wrong_spec_says_what_there_is(spec: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"no scorer .*numeric.*judge|gpt"):
        as_scorer(spec)


def sync_length(answer: str, reference: Reference) -> float:
    return float(len(answer) == reference)


async def async_length(answer: str, reference: Reference) -> float:
    return sync_length(answer, reference)


@pytest.mark.parametrize("given_as", ["exact", as_scorer("exact"), sync_length, async_length])
async def test_every_scorer_is_awaited_the_same_way(given_as: Any) -> None:
    scorer = as_scorer(given_as)
    assert await scorer.score("Paris", "Paris" if scorer.computes else 5) == 1.0
    assert scorer.spec in ("exact", "sync_length", "async_length")


async def test_a_function_that_leaves_the_range_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"returned 3: a score is a number from 0 to 1"):
        await as_scorer(lambda answer, reference: 3).score("x", "y")


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("CORRECT", 1.0),
        ("**Incorrect.**", 0.0),
        ("It is not correct", 0.0),
        ("That isn't quite correct.", 0.0),
        ("Partially correct", 0.0),
        ("CORRECT. Nothing in it is wrong.", 1.0),
        ("At first it looks incorrect, but: CORRECT", 1.0),
        ("I cannot say", None),
    ],
)
async def test_a_judge_sees_all(reply: str, value: float | None) -> None:
    model = ScriptedModel(reply)
    assert await ask_judge(model, "{reference}", ["a", "b"], "Where?") == value
    asked = model.requests[0].messages[-1].text
    for tag, said in (("question", "Where?"), ("reference", "a or b"), ("answer", "{reference}")):
        assert f"<{tag}>\n{said}\n</{tag}>" in asked
    judge = Scorer("judge", lambda *given: ask_judge(model, *given))
    assert await judge.score("a", None) == value
    assert "none given" in model.requests[1].messages[-1].text
