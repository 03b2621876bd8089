"""Signals with scripted replies: what they ask, when they stop, and what they read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolCall

from cascade.confidence.answers import normalise
from cascade.confidence.columns import matrix, owner, raw_score
from cascade.confidence.score import combine
from cascade.confidence.signals import (
    BUILT_IN,
    Agreement,
    Asked,
    Probe,
    PromptVotes,
    PTrueSignal,
    SelfConsistency,
    SemanticAgreement,
    Signal,
    SignalLike,
    UserSignal,
    VerbalisedSignal,
    prompt_features,
    take,
    to_signals,
)
from cascade.confidence.signals.free import TokenQuantile
from cascade.errors import ConfigurationError
from cascade.state import Completion
from cascade.testing import reply

MESSAGES = (SystemMessage("Be short."), HumanMessage("6 times 7?"))


def asked(answer: Completion | str = "42") -> Asked:
    return Asked(MESSAGES, reply(answer) if isinstance(answer, str) else answer)


async def taken(
    signal: Signal, replies: Sequence[Completion | str], answer: Completion | str = "42"
) -> tuple[Mapping[str, float], list[Probe]]:
    """The features of a signal whose calls are answered one after the other."""
    probes: list[Probe] = []

    async def ask(_: Signal, probe: Probe) -> Completion:
        probes.append(probe)
        said = replies[len(probes) - 1]
        return reply(said) if isinstance(said, str) else said

    return await take(signal, asked(answer), ask), probes


# --- self-consistency


async def test_samples_are_weighted_by_their_own_confidence_as_in_cisc() -> None:
    samples = [
        reply("42", probability=0.9),
        reply("41", probability=0.4),
        reply("42", probability=0.5),
    ]
    features, _ = await taken(SelfConsistency(3, at_once=3, sharpness=2.0), samples)
    right = math.exp(2 * 0.9) + math.exp(2 * 0.5)
    assert features == {"self_consistency": pytest.approx(right / (right + math.exp(2 * 0.4)))}


async def test_without_sharpness_or_log_probabilities_votes_are_counted() -> None:
    unweighted = SelfConsistency(3, at_once=3, sharpness=0.0)
    features, probes = await taken(unweighted, ["42", reply("41", probability=0.9), "42."])
    assert features["self_consistency"] == pytest.approx(2 / 3)
    assert {probe.top_logprobs for probe in probes} == {0}
    features, probes = await taken(SelfConsistency(3, at_once=3), ["42", "41", "42."])
    assert features["self_consistency"] == pytest.approx(2 / 3)
    assert {probe.top_logprobs for probe in probes} == {1}


async def test_sampling_stops_as_soon_as_the_vote_is_decided() -> None:
    signal = SelfConsistency(5, at_once=1, sharpness=0.0)
    assert len((await taken(signal, ["42"] * 5))[1]) == 3
    assert len((await taken(signal, ["41"] * 5))[1]) == 3
    assert len((await taken(signal, ["41", "42", "41", "42", "42"]))[1]) == 5


async def test_a_sample_is_another_draft_at_its_own_temperature() -> None:
    _, probes = await taken(SelfConsistency(1, temperature=0.7), ["42"])
    assert probes == [Probe(MESSAGES, temperature=0.7, top_logprobs=1, as_draft=True)]


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0.01, 1)), min_size=1, max_size=9),
    st.sampled_from([0.0, 1.0, 5.0]),
    st.integers(1, 4),
)
def test_a_decided_vote_stands_on_the_side_of_the_full_vote(
    votes: list[tuple[bool, float]], sharpness: float, at_once: int
) -> None:
    replies = [reply("42" if right else "41", probability=p) for right, p in votes]
    signal = SelfConsistency(len(votes), sharpness=sharpness, at_once=at_once)
    got: list[Completion] = []
    while probes := signal.probes(asked(), got):
        got += replies[len(got) : len(got) + len(probes)]
    early = signal.read(asked(), got)["self_consistency"]
    full = signal.read(asked(), replies)["self_consistency"]
    if len(got) < len(replies):
        assert (early > 0.5) == (full > 0.5)
        assert full != 0.5
    assert len(got) <= signal.calls


@pytest.mark.parametrize(
    "options",
    [
        {"k": 0},
        {"at_once": 0},
        {"temperature": 0.0},
        {"sharpness": -1.0},
        {"sharpness": float("nan")},
    ],
)
def test_a_vote_that_cannot_be_held_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="SelfConsistency"):
        SelfConsistency(**options)  # type: ignore[arg-type]


def test_no_samples_are_no_vote() -> None:
    assert SelfConsistency().read(asked(), []) == {}


# --- other askers


@pytest.mark.parametrize(("said", "value"), [("The answer is 42.", 1.0), ("41", 0.0)])
async def test_agreement_is_whether_the_other_model_says_the_same(said: str, value: float) -> None:
    features, probes = await taken(Agreement("ollama:other", name="second"), [said])
    assert features == {"second": value}
    assert probes == [Probe(MESSAGES, as_draft=True)]


async def test_prompt_votes_put_the_question_in_other_words() -> None:
    signal = PromptVotes(["Think: {question}", "{question} Step by step."], samples=2)
    features, probes = await taken(signal, ["42", "41", "42", "40"])
    assert features == {"prompt_votes": 0.5, "prompt_votes_top": 1.0}
    assert signal.calls == 4
    assert [str(p.messages[-1].text) for p in probes[1:3]] == [
        "Think: 6 times 7?",
        "6 times 7? Step by step.",
    ]
    assert probes[0].messages[0] is MESSAGES[0]


async def test_a_draft_that_others_outvote_is_not_on_top() -> None:
    features, _ = await taken(PromptVotes(["{question}"] * 3), ["41", "41", "42"])
    assert features == {"prompt_votes": pytest.approx(1 / 3), "prompt_votes_top": 0.0}


@pytest.mark.parametrize("prompts", [[], ["no question here"]])
def test_prompts_without_the_question_are_refused(prompts: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="PromptVotes"):
        PromptVotes(prompts)


def embed(texts: Sequence[str]) -> list[list[float]]:
    """Direction by first letter: a → x, b → y, z → nowhere, anything else → −x."""
    known = {"a": [1.0, 0.0], "b": [0.0, 2.0], "z": [0.0, 0.0]}
    return [known.get(text[0], [-1.0, 0.0]) for text in texts]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [(["a", "aa"], 1.0), (["a", "b"], 0.5), (["z", "z"], 0.0), (["minus", "minus"], 0.0)],
)
async def test_semantic_agreement_is_the_mean_cosine_clipped(
    samples: list[str], expected: float
) -> None:
    features, probes = await taken(SemanticAgreement(embed, k=2), samples, "a draft")
    assert features == {"semantic_agreement": pytest.approx(expected)}
    assert all(probe.as_draft for probe in probes)


def test_semantic_agreement_without_samples_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="k=0"):
        SemanticAgreement(embed, k=0)


async def test_p_true_asks_once_about_the_draft() -> None:
    told = reply("True", probability=0.8, top=[("True", 0.8), ("False", 0.2)])
    features, probes = await taken(PTrueSignal(), [told])
    assert features == {"p_true": pytest.approx(0.8)}
    assert isinstance(probes[0].messages[-2], AIMessage)
    assert (await taken(PTrueSignal(), ["Perhaps"]))[0] == {}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("85", 0.85),
        ("7.5 %", 0.075),
        ("90/100", 0.9),
        ("About 7", None),
        ("0", 0.0),
        ("100.", 1.0),
        ("250", None),
        ("no", None),
    ],
)
async def test_verbalised_confidence_is_the_number_it_names(
    said: str, expected: float | None
) -> None:
    features, _ = await taken(VerbalisedSignal(), [said])
    assert features == ({} if expected is None else {"verbalised": pytest.approx(expected)})


# --- free ones


async def test_markers_of_the_text_are_found_also_with_curly_apostrophes() -> None:
    text = BUILT_IN["text"]()
    for words in ("I can't say.", "I can’t say.", "I’m sorry.", "As an AI model"):
        assert (await taken(text, [], words))[0]["answer_refuses"] == 1.0
    features, _ = await taken(text, [], reply("Perhaps Rome", finish_reason="length"))
    assert features == {
        "answer_words": 2.0,
        "answer_truncated": 1.0,
        "answer_refuses": 0.0,
        "answer_hedges": 1.0,
    }


async def test_the_question_alone_is_described() -> None:
    features, _ = await taken(BUILT_IN["prompt"](), [])
    assert features == prompt_features("6 times 7?")
    assert features["prompt_numbers"] == 2.0
    assert features["prompt_symbols"] == 1.0


CALL = ToolCall(name="search", args={"q": "cheap flights"}, id="1", type="tool_call")


async def test_a_tool_call_is_scored_by_its_name_and_values_and_not_by_the_text_around() -> None:
    called = reply("Hm.", probability=0.1, tool_calls=[CALL], call_probability=[0.9, 0.5, 0.8])
    features, _ = await taken(BUILT_IN["logprobs"](), [], called)
    assert features["token_count"] == 3
    assert features["logprob_min"] == pytest.approx(math.log(0.5))
    score = BUILT_IN["logprobs"]().score(features)
    assert score == pytest.approx((0.9 * 0.5 * 0.8) ** (1 / 3))
    assert (await taken(TokenQuantile(0.0), [], called))[0] == {
        "token_quantile": pytest.approx(0.5)
    }


async def test_a_tool_call_without_its_log_probabilities_has_no_score() -> None:
    called = reply("Hm.", probability=0.5, tool_calls=[CALL])
    for signal in (BUILT_IN["logprobs"](), TokenQuantile()):
        assert (await taken(signal, [], called))[0] == {}


async def test_samples_that_call_tools_weigh_by_their_calls() -> None:
    same = reply("", tool_calls=[CALL], call_probability=1.0)
    other = reply("no", probability=0.5)
    features, _ = await taken(SelfConsistency(2), [same, other], same)
    agreeing, against = math.exp(1.0), math.exp(0.5)
    assert features["self_consistency"] == pytest.approx(agreeing / (agreeing + against))


@pytest.mark.parametrize(("q", "expected"), [(0.0, 0.1), (0.5, 0.5), (1.0, 0.9)])
async def test_a_quantile_of_the_token_probabilities_is_a_score(q: float, expected: float) -> None:
    answer = reply("one two three", probability=[0.9, 0.1, 0.5])
    assert (await taken(TokenQuantile(q), [], answer))[0] == {
        "token_quantile": pytest.approx(expected)
    }
    assert (await taken(TokenQuantile(q), []))[0] == {}


def test_a_quantile_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="between 0 and 1"):
        TokenQuantile(1.5)


@pytest.mark.parametrize(
    ("value", "features"),
    [(True, {"mine": 1.0}), (0.25, {"mine": 0.25}), (None, {}), (float("nan"), {})],
)
async def test_a_function_of_the_users_is_a_signal(
    value: float | None, features: dict[str, float]
) -> None:
    def mine(question: str, answer: str) -> float | None:
        assert (question, answer) == ("6 times 7?", "42")
        return value

    [signal] = to_signals([mine])
    assert (await taken(signal, []))[0] == features


# --- names


def test_signals_are_taken_cheapest_first() -> None:
    names = [signal.name for signal in to_signals(["self_consistency", "p_true", "logprobs"])]
    assert names == ["logprobs", "p_true", "self_consistency"]


def token_count(question: str, answer: str) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        (["luck"], "no signal 'luck'"),
        (["p_true", PTrueSignal()], "two signals are called 'p_true'"),
        ([Agreement("a"), Agreement("b")], "two signals are called 'agreement'"),
        ([token_count], "'token_count', which is built in"),
        ([UserSignal(lambda q, a: 1.0, "prompt")], "'prompt', which is built in"),
        ([UserSignal(lambda q, a: 1.0, "raw")], "'raw', which is built in"),
    ],
)
def test_names_that_are_unknown_or_taken_are_refused(
    wanted: list[SignalLike], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        to_signals(wanted)


@pytest.mark.parametrize(
    ("feature", "expected"),
    [
        ("logprob_mean", "logprobs"),
        ("prompt_words", "prompt"),
        ("prompt_votes", "prompt_votes"),
        ("prompt_votes_top", "prompt_votes"),
        ("p", "p"),
        ("p_true", "p_true"),
        ("p_other", "p"),
        ("logprob_x", "logprob_x"),
        ("answer_ok", "answer_ok"),
        ("stranger", None),
    ],
)
def test_a_feature_is_of_the_signal_that_is_called_so(feature: str, expected: str | None) -> None:
    names = ["p", "p_true", "logprobs", "logprob_x", "prompt", "prompt_votes", "answer_ok"]
    assert owner(feature, names) == expected


# --- scales


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=20, unique=True))
def test_the_scale_of_a_users_signal_keeps_its_order(values: list[float]) -> None:
    rows = [{"mine": value} for value in sorted(values)]
    scaled = matrix(rows, ("mine",), ())[:, 0].tolist()
    assert scaled == sorted(scaled)


def test_a_score_is_on_the_logit_scale_and_an_unbounded_value_on_its_own() -> None:
    rows = [{"score": 0.5, "tests": 0.0}, {"score": 1.0, "tests": 7.0}]
    table = matrix(rows, ("score", "tests"), ())
    assert table[:, 0] == pytest.approx([0.0, math.log(0.98 / 0.02)])
    assert table[:, 1].tolist() == [0.0, 7.0]
    later = matrix([{"score": 3.0}], ("score", "tests"), (), linear=("tests",))
    assert later[0, 0] == pytest.approx(math.log(0.98 / 0.02))


def test_values_that_are_no_numbers_are_missing() -> None:
    assert combine({"a": float("nan"), "b": 0.4}) == combine({"b": 0.4, "a": float("nan")}) == 0.4
    assert raw_score({"a": float("nan")}, ["a"]) is None
    assert math.isnan(matrix([{"a": float("inf")}], ("a",), ())[0, 0])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("The answer is 1,000.", "1000.0", True),
        ("1234567", "1234568", False),
        (".5", "0.50", True),
        (".5", "5", False),
        ("-0", "0", True),
        ("1e3", "1000", True),
        ("A", "B", False),
        ("(A)", "a.", True),
        ("A", "", False),
        ("The cat", "a Cat!", True),
        ("Answer: Rome", "it is not so; the answer is rome", True),
        ("50%", "50", False),
    ],
)
def test_answers_that_mean_the_same_are_the_same(one: str, other: str, same: bool) -> None:
    assert (normalise(one) == normalise(other)) is same
