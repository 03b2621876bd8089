from __future__ import annotations

import asyncio
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.errors import ConfigurationError, InputError
from cascade.evaluation.scorers import (
    SCORERS,
    CodeScorer,
    FunctionScorer,
    JudgeScorer,
    NumericScorer,
    Reference,
    Scorer,
    TextScorer,
    as_scorer,
    get_scorer,
)
from cascade.testing import ScriptedModel

QUESTION = (
    "Example\nA. red\nB. blue\n\nA dog is a?\nA. plant\nB. living animal\nC. animal\nD. 12 km"
)


def score(spec: str, answer: str, reference: Reference, question: str = "") -> float:
    scorer = get_scorer(spec)
    assert isinstance(scorer, TextScorer)
    return scorer(answer, reference, question)


RIGHT: list[tuple[str, str, Reference]] = [
    ("exact", "The answer is Paris.", "paris"),
    ("exact", "  paris ", ["London", "Paris"]),
    ("exact", "1,234.0", "1234"),
    ("exact", "A", "a"),
    ("exact", "42", 42),
    ("exact", "0.5", 0.5),
    ("numeric", "So she has 1,234 apples.", "1234"),
    ("numeric", "12 345 in all", 12345),
    ("numeric", "reasoning 3 + 4 = 7\n#### 7", "#### 7"),
    ("numeric", "#### 18.\n(see 5 notes)", 18),
    ("numeric", r"thus \boxed{\frac{3}{4}} of 100", "0.75"),
    ("numeric", "The answer is 5 out of 10", "5"),
    ("numeric", "Answer: We begin with 3 + 4\nans = 7", "7"),
    ("numeric", "Answer: the sum of all three, so 9 at last and 10", "10"),
    ("numeric", "the total is $-3.50", "-3.5"),
    ("numeric", "it is −$3.50", "-3.5"),
    ("numeric", "3/4", "0.75"),
    ("numeric", "1 1/2 cups", "1.5"),
    ("numeric", "50%", "0.5"),
    ("numeric", "0.5", "50 %"),
    ("numeric", "50 percent", "50"),
    ("numeric", "50%", "50%"),
    ("numeric", "1.2 × 10^3", "1200"),
    ("numeric", "6.02e23", "6.02 * 10^{23}"),
    ("numeric", "2 million people", "2000000"),
    ("numeric", "5 kilometers", "5000 m"),
    ("numeric", "90 minutes", "1.5 hours"),
    ("numeric", "5 apples", "5 pears"),
    ("numeric", "5 m", "5 s"),
    ("numeric", ".5", 0.5),
    ("numeric:0.1", "0.3", "0.2"),
    ("numeric:1%", "101", "100"),
    ("numeric", "**7**", [6, 7]),
    ("choice", "B", "B"),
    ("choice", "(B)", "b"),
    ("choice", "b.", "(B)"),
    ("choice", "Answer: B", "B"),
    ("choice", "The answer is (B) because A is wrong.", "B"),
    ("choice", "The correct option is **B**", "B"),
    ("choice", r"so \boxed{\text{B}}", "B"),
    ("choice", "B) living animal", "B"),
    ("choice", "First A. looks right, but (B) is better.", "B"),
    ("choice", "I would go for B here", "B"),
    ("choice", "The answer is a living animal", "B"),
    ("choice", "animal", "C"),
    ("choice", "It must be a plant, surely.", "plant"),
    ("choice", "12 km", ["D", "C"]),
    ("choice", "C", "animal"),
    ("choice", "The answer is not A but C.", "C"),
    ("choice", "Of the answers a few fit; option is a poor word. Choice: C", "C"),
    ("choice", "The answer is Z, no: (B)", "B"),
    ("contains", "It is in Paris, France", "paris"),
    ("contains", "It is in Paris", ["London", "Paris"]),
    ("contains", "costs $5 (net)", "$5"),
    ("contains:all", "Paris and London", ["London", "Paris"]),
    ("json", 'Here: ```json\n{"a": 1, "b": " x "}\n```', {"a": 1.0, "b": "x"}),
    ("json", '{"a": 1, "extra": true}', '{"a": 1}'),
    ("json", 'so {"a": {"b": [1, {"c": null}]}} it is', {"a": {"b": [1, {"c": None}]}}),
    ("json", 'the list [{"a": 1}]', [{"a": 1}]),
    ("json:a,b", '{"a": 1, "b": {"c": 2}}', {"a": 1, "b": {"c": 2}, "d": 9}),
    ("json:all", '{"a": []}', {"a": []}),
    ("json", '{"a": {}}', {"a": {}}),
]
WRONG: list[tuple[str, str, Reference]] = [
    ("exact", "London", "Paris"),
    ("exact", "the", "a"),
    ("exact", "", "Paris"),
    ("numeric", "no number here", "7"),
    ("numeric", "1/0", "7"),
    ("numeric", "1 2/0", "7"),
    ("numeric", "1e999999", "7"),
    ("numeric", "5 km", "5 m"),
    ("numeric", "5", "0.5"),
    ("numeric:0.1", "0.31", "0.2"),
    ("choice", "I do not know", "B"),
    ("choice", "E", "B"),
    ("choice", "", "B"),
    ("choice", "a plant or an animal", "C"),
    ("contains", "Parisian", "Paris"),
    ("contains:all", "Rome", ["London", "Paris"]),
    ("json", "no JSON", {"a": 1}),
    ("json", "{broken]", {"a": 1}),
    ("json", '{"a": "1"}', {"a": 1}),
    ("json", '{"a": true}', {"a": 1}),
    ("json", '{"a": null}', {"a": 1}),
    ("json", '{"a": 1}', {"a": []}),
    ("json", "[1]", {"a": 1}),
]


@pytest.mark.parametrize(("spec", "answer", "reference"), RIGHT)
def test_it_is_right(spec: str, answer: str, reference: Reference) -> None:
    assert score(spec, answer, reference, QUESTION) == 1.0


@pytest.mark.parametrize(("spec", "answer", "reference"), WRONG)
def test_it_is_wrong(spec: str, answer: str, reference: Reference) -> None:
    assert score(spec, answer, reference, QUESTION) == 0.0


@pytest.mark.parametrize(
    ("spec", "answer", "reference", "expected"),
    [
        ("json:share", '{"a": 1, "b": 2}', {"a": 1, "b": 3}, 0.5),
        ("contains:all", "Paris", ["London", "Paris"], 0.5),
    ],
)
def test_some_scores_are_shares(
    spec: str, answer: str, reference: Reference, expected: float
) -> None:
    assert score(spec, answer, reference) == expected


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
        ("json:b", {"a": 1}, "has no field b"),
    ],
)
def test_a_reference_that_cannot_be_compared_is_an_error(
    spec: str, reference: Reference, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        score(spec, "answer", reference)


def test_a_choice_without_options_is_read_by_its_letter() -> None:
    assert score("choice", "The answers are many: (B)", "B") == 1.0
    assert score("choice", "The answer is E.", "E") == 1.0


@given(
    spec=st.sampled_from(["exact", "contains", "contains:all", "numeric", "choice", "json:share"]),
    answer=st.text() | st.from_regex(r"[-$\d,./% eE()A-D\n]{0,30}", fullmatch=True),
    question=st.text() | st.just(QUESTION),
)
def test_every_score_is_between_0_and_1(spec: str, answer: str, question: str) -> None:
    references: dict[str, Reference] = {"numeric": 7, "choice": "B", "json:share": {"a": 1}}
    assert 0.0 <= score(spec, answer, references.get(spec, "7"), question) <= 1.0


@given(value=st.floats(-1e12, 1e12).map(lambda value: round(value, 4)))
def test_a_number_is_itself_however_it_is_written(value: float) -> None:
    scorer = NumericScorer()
    assert scorer(f"so it is {value:,.4f} in total", value) == 1.0
    assert scorer(f"#### {value:.4f}", f"{value:.4f}") == 1.0


@pytest.mark.parametrize("name", ["exact", "numeric:1%", "choice", "contains", "json", "code:5"])
def test_a_scorer_tells_its_spec(name: str) -> None:
    assert get_scorer(name).spec == name


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("numerical", r"(?s)Did you mean 'numeric'\?.*judge"),
        ("", "there is no scorer ''"),
        ("exact:1", "cannot be set so. exact: the same answer"),
        ("choice:1", "cannot be set so"),
        ("contains:some", "cannot be set so"),
        ("numeric:", "cannot be set so"),
        ("numeric:x", "cannot be set so"),
        ("numeric:-1", "cannot be set so"),
        ("code:0", "cannot be set so"),
        ("json:,", "cannot be set so"),
        ("judge", "needs a model"),
        ("judge:gpt", "has no provider"),
    ],
)
def test_a_wrong_spec_says_what_there_is(spec: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        get_scorer(spec)


def test_every_scorer_of_the_list_can_be_had() -> None:
    assert {get_scorer(name).spec for name in SCORERS if name != "judge"} == set(SCORERS) - {
        "judge"
    } - {"code"} | {"code:10"}


def sync_length(answer: str, reference: Reference) -> float:
    return float(len(answer) == reference)


async def async_length(answer: str, reference: Reference) -> float:
    return sync_length(answer, reference)


@pytest.mark.parametrize("given_as", ["exact", get_scorer("exact"), sync_length, async_length])
async def test_every_scorer_is_awaited_the_same_way(given_as: object) -> None:
    scorer = as_scorer(given_as)  # type: ignore[arg-type]
    assert isinstance(scorer, Scorer)
    reference: Reference = 5 if isinstance(scorer, FunctionScorer) else "Paris"
    assert (await scorer.score("Paris", reference)).value == 1.0


def test_a_function_is_named_after_itself() -> None:
    assert as_scorer(sync_length).spec == "sync_length"


async def test_a_function_that_leaves_the_range_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"returned 3: a score is a number from 0 to 1"):
        await as_scorer(lambda answer, reference: 3).score("x", "y")


def test_what_is_no_scorer_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="not 3"):
        as_scorer(3)  # type: ignore[arg-type]


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
async def test_the_verdict_of_the_judge_is_read(reply: str, value: float | None) -> None:
    found = await JudgeScorer(ScriptedModel(reply)).score("Paris", "Paris", question="Where?")
    assert found.value == value


async def test_the_judge_is_shown_question_reference_and_answer_and_its_call_comes_back() -> None:
    model = ScriptedModel("CORRECT")
    found = await JudgeScorer(model).score("{reference}", ["a", "b"], question="Where?")
    assert found.completion is not None
    assert found.completion.usage.known
    asked = model.requests[0].messages[-1].text
    assert "<question>\nWhere?\n</question>" in asked
    assert "<reference>\na or b\n</reference>" in asked
    assert "<answer>\n{reference}\n</answer>" in asked


async def test_the_judge_can_do_without_a_reference() -> None:
    model = ScriptedModel("CORRECT")
    await JudgeScorer(model).score("Paris", None)
    assert "none given" in model.requests[0].messages[-1].text


def test_a_judge_is_known_by_its_model() -> None:
    assert JudgeScorer(ScriptedModel("CORRECT")).spec == "judge:scripted:scripted"


def test_a_judge_whose_task_lacks_a_place_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"has no \{question\} and no \{reference\}"):
        JudgeScorer(ScriptedModel("x"), task="{answer}?")


def test_a_judge_by_spec_opens_its_model() -> None:
    assert get_scorer("judge:ollama:qwen2.5:3b").spec == "judge:ollama:qwen2.5:3b"


ADD = "Sure:\n```python\ndef add(a, b):\n    return a + b\n```\nDone."
TESTS = "assert add(1, 2) == 3"
DATACLASS = (
    "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    "@dataclass\nclass P:\n    x: int\ndef add(a, b): return P(a + b).x"
)


@pytest.mark.parametrize(
    ("answer", "tests"),
    [(ADD, TESTS), (DATACLASS, [TESTS, "assert add(0, 0) == 0"])],
    ids=["fenced", "bare, with two tests"],
)
async def test_code_that_passes_is_right(answer: str, tests: Reference) -> None:
    assert (await CodeScorer().score(answer, tests)).value == 1.0


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        ("def add(a, b): return a - b", "AssertionError"),
        ("def add(a, b) return", "SyntaxError"),
        ("import sys\nsys.exit(0)", "ended before the tests did"),
        ("import os\nos._exit(0)", "ended before the tests did"),
        ("while True: pass", "not done after 1 s"),
        ("import os\nprint(os.environ['SECRET'])", "KeyError"),
        ("import cascade_tests_are_not_here", "ModuleNotFoundError"),
        pytest.param(
            "x = bytearray(4 * 2**30)",
            "MemoryError",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="no limit on memory here"),
        ),
    ],
)
async def test_code_that_fails_is_wrong_and_says_why(
    answer: str, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "s")
    found = await CodeScorer(timeout_s=1 if "while" in answer else 20).score(answer, TESTS)
    assert found.value == 0.0
    assert note in found.note


async def test_what_the_code_has_started_ends_with_it() -> None:
    child = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'while True: pass'])"
    assert (await CodeScorer(timeout_s=2).score(child, TESTS)).note == "not done after 2 s"


async def test_a_cancelled_run_leaves_no_process() -> None:
    running = asyncio.create_task(CodeScorer().score("while True: pass", TESTS))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_reference_without_tests_is_an_error() -> None:
    with pytest.raises(InputError, match="code"):
        await CodeScorer().score(ADD, None)


@pytest.mark.parametrize("limit", ["timeout_s", "memory_mb"])
def test_a_limit_is_above_0(limit: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{limit}=0"):
        CodeScorer(**{limit: 0})


async def test_all_blocks_of_an_answer_are_its_code() -> None:
    answer = "a\n```py\nx = 1\n```\nb\n```\ny = 2"
    assert (await CodeScorer().score(answer, "assert x + y == 3")).value == 1.0
