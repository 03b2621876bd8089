"""Signals with scripted replies: what they ask, when they stop, and what they read."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolCall, ToolMessage

from cascade.confidence import Asked, PrefillScore, Probe, SelfConsistency, Signal, UserSignal
from cascade.confidence.base import WINDOW, combine, logprob_features, take
from cascade.confidence.signals import (
    BUILT_IN,
    SignalLike,
    Step,
    normalise,
    to_signals,
    trajectory_features,
    wordings,
)
from cascade.errors import ConfigurationError
from cascade.state import Completion, TokenLogprob
from tests.confidence.drafts import said

MESSAGES = (SystemMessage("Be short."), HumanMessage("6 times 7?"))
ASKED = Asked(MESSAGES, said("42"))
CALL = ToolCall(name="search", args={"q": "cheap flights"}, id="1", type="tool_call")


async def taken(
    signal: Signal, replies: Sequence[Completion | str] = (), answer: Completion | str = "42"
) -> tuple[Mapping[str, float], list[Probe]]:
    """The features of a signal whose calls are answered one after the other."""
    probes: list[Probe] = []

    async def ask(probe: Probe) -> Completion:
        probes.append(probe)
        reply = replies[len(probes) - 1]
        return said(reply) if isinstance(reply, str) else reply

    draft = said(answer) if isinstance(answer, str) else answer
    return await take(signal, Asked(MESSAGES, draft), ask), probes


async def unasked(probe: Probe) -> Completion:
    raise AssertionError(probe)


def test_log_probability_features_are_those_computed_by_hand() -> None:
    features = logprob_features([TokenLogprob("x", v) for v in (-0.1, -0.2, -2.0, -0.5)])
    expected = {"logprob_mean": -0.7, "logprob_min": -2.0, "logprob_window_min": -0.7}
    # sorted −2, −0.5, …: 0.1 · 3 = 0.3 of the way from the first to the second
    assert features == pytest.approx(expected | {"logprob_q10": -1.55, "token_count": 4.0})
    assert logprob_features(None) == logprob_features([]) == {}
    good, bad = [-0.1] * 20, [-1.0] * WINDOW
    long = logprob_features([TokenLogprob("x", v) for v in (*good, *bad, *good)])
    assert long["logprob_window_min"] == pytest.approx(-1.0)


def test_the_margin_is_that_of_the_two_most_likely_tokens_in_any_order() -> None:
    first = TokenLogprob("a", -0.3, (("b", -1.3), ("a", -0.3), ("c", -5.0)))
    second = TokenLogprob("a", -0.2, (("a", -0.2), ("b", -2.2)))
    assert logprob_features([first, second])["margin_mean"] == pytest.approx(1.5)
    assert "margin_mean" not in logprob_features([TokenLogprob("a", -0.1, (("a", -0.1),))])


async def test_a_tool_call_is_scored_by_its_name_and_values_and_not_by_the_text_around() -> None:
    called = said("Hm.", 0.1, calls=[CALL], of_calls=[0.9, 0.5, 0.8])
    features, _ = await taken(BUILT_IN["logprobs"], [], called)
    assert features["token_count"] == 3
    score = BUILT_IN["logprobs"].score(features)
    assert score == pytest.approx((0.9 * 0.5 * 0.8) ** (1 / 3))
    assert (await taken(BUILT_IN["logprobs"], [], said("Hm.", 0.5, calls=[CALL])))[0] == {}


async def test_markers_of_the_text_are_found_also_with_curly_apostrophes() -> None:
    text = BUILT_IN["text"]
    for words in ("I can't say.", "I can’t say.", "I’m sorry.", "As an AI model"):
        assert (await taken(text, [], words))[0]["answer_refuses"] == 1.0
    prompt, _ = await taken(BUILT_IN["prompt"])
    assert (prompt["prompt_numbers"], prompt["prompt_symbols"]) == (2.0, 1.0)
    features, _ = await taken(text, [], said("Perhaps Rome", finish_reason="length"))
    markers = {"answer_truncated": 1.0, "answer_refuses": 0.0, "answer_hedges": 1.0}
    assert features == {"answer_words": 2.0} | markers


def test_a_recorded_trajectory_has_features_at_every_step() -> None:
    recorded: list[dict[str, Any]] = [
        {"action": "ls", "observation": "a.txt", "is_error": False, "kind": "tool"},
        {"action": "cat b.txt", "observation": "no such file", "is_error": True, "kind": "tool"},
        {"action": "ls", "observation": "a.txt", "is_error": False, "kind": "tool"},
        {"action": "42", "observation": None, "kind": "submit"},
    ]
    steps = [Step(**each) for each in recorded]
    features = trajectory_features(steps)
    expected = {"steps": 4, "errors": 1, "error_share": 0.25, "repeats": 1, "same": 1, "failing": 0}
    expected |= {"answered": 1, "words": 5, "last": 1, "read": 5}
    named = {f"trajectory_{name}": value for name, value in expected.items()}
    assert features == named | {"trajectory": 0.75 * 0.75}
    under_way = trajectory_features(steps[:2])
    assert (under_way["trajectory_failing"], under_way["trajectory_answered"]) == (1.0, 0.0)
    assert trajectory_features([]) == {}


async def test_the_messages_of_an_agents_run_are_its_trajectory() -> None:
    again = ToolCall(name="search", args={"q": "cheap flights"}, id="2", type="tool_call")
    lost = ToolCall(name="book", args={}, id="3", type="tool_call")
    broken = {"name": "pay", "args": "{", "id": "4", "error": "", "type": "invalid_tool_call"}
    run = [
        HumanMessage("Find a flight."),
        AIMessage("", tool_calls=[CALL]),
        ToolMessage("timeout", tool_call_id="1", status="error"),
        AIMessage("", tool_calls=[again, lost], invalid_tool_calls=[broken]),
        ToolMessage("timeout", tool_call_id="2", status="error"),
        AIMessage("There is none."),
    ]

    asked = Asked(MESSAGES, replace(said("x"), trajectory=tuple(run)))
    features = await take(BUILT_IN["trajectory"], asked, unasked)
    assert features["trajectory_steps"] == 5
    assert features["trajectory_errors"] == 3
    assert features["trajectory_repeats"] == features["trajectory_same"] == 1
    assert (features["trajectory_answered"], features["trajectory_limit"]) == (1.0, 0.0)
    assert (await taken(BUILT_IN["trajectory"]))[0] == {}


async def test_samples_are_weighted_by_their_own_confidence_as_in_cisc() -> None:
    samples = [said("42", 0.9), said("41", 0.4), said("42", 0.5)]
    features, probes = await taken(SelfConsistency(3, temperature=0.7), samples)
    right = math.exp(0.9) + math.exp(0.5)
    assert features == {"self_consistency": pytest.approx(right / (right + math.exp(0.4)))}
    assert probes == [Probe(MESSAGES, temperature=0.7, top_logprobs=1, as_draft=True)] * 3


async def test_sampling_stops_as_soon_as_the_vote_is_decided() -> None:
    signal, sure = SelfConsistency(6), [said("42", 0.999)] * 6
    assert len((await taken(signal, sure))[1]) == 4
    assert len((await taken(signal, [said("41", 0.999)] * 6))[1]) == 4
    features, probes = await taken(signal, ["41", "42"] * 3)
    assert (features["self_consistency"], len(probes)) == (0.5, 6)


@given(st.lists(st.tuples(st.booleans(), st.floats(0.01, 1)), min_size=1, max_size=9))
def test_a_decided_vote_is_on_the_side_of_the_full_vote(votes: list[tuple[bool, float]]) -> None:
    replies = [said("42" if right else "41", p) for right, p in votes]
    signal = SelfConsistency(len(votes))
    got: list[Completion] = []
    while probes := signal.probes(ASKED, got):
        got += replies[len(got) : len(got) + len(probes)]
    early = signal.read(ASKED, got)["self_consistency"]
    full = signal.read(ASKED, replies)["self_consistency"]
    if len(got) < len(replies):
        assert (early > 0.5) == (full > 0.5)
        assert full != 0.5
    assert len(got) <= signal.calls


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        *(("7.5 %", 0.075), ("90/100", 0.9), ("0", 0.0), ("100.", 1.0)),
        *((text, None) for text in ("About 7", "250", "no", "1e2")),
    ],
)
async def test_verbalised_confidence_is_its_number(reply: str, expected: float | None) -> None:
    features, _ = await taken(BUILT_IN["verbalised"], [reply])
    assert features == ({} if expected is None else {"verbalised": pytest.approx(expected)})


async def test_another_model_reads_the_draft_without_writing() -> None:
    read = said("42", 0.5, 0.25)
    features, probes = await taken(PrefillScore("llamacpp:other"), [read], said("42", 0.9, 0.8))
    assert probes == [Probe(MESSAGES, answer="42")]
    assert features["prefill"] == pytest.approx(math.sqrt(0.5 * 0.25))
    assert features["prefill_min"] == pytest.approx(math.log(0.25))
    own, other = (0.5 * math.log(a * b) for a, b in ((0.9, 0.8), (0.5, 0.25)))
    assert features["prefill_gap"] == pytest.approx(own - other)
    assert PrefillScore("m").score(features) == features["prefill"]
    assert (await taken(PrefillScore("m"), ["no log-probs"]))[0] == {}
    assert await taken(PrefillScore("m"), [], "") == ({}, [])


@pytest.mark.parametrize("value", [37, math.nan, math.inf])
async def test_a_number_that_is_no_probability_is_a_feature_or_missing(value: float) -> None:
    [signal] = to_signals([UserSignal(lambda question, answer: value, "mine")])
    features, _ = await taken(signal)
    assert features == ({"mine": 37.0} if value == 37 else {})
    assert signal.score(features) is None


async def test_a_users_signal_may_be_async_and_take_the_runtime() -> None:
    async def longer(question: str, answer: str, runtime: object) -> float:
        await asyncio.sleep(0)
        return 1.0 if runtime == "runtime" else 0.0

    def optional(question: str, answer: str, runtime: object = None) -> bool:
        return runtime == "runtime"

    def strict(question: str, answer: str, strict: bool = False) -> bool:
        return strict

    asked = Asked(MESSAGES, said("42"), runtime="runtime")
    signals = to_signals([longer, optional, strict])
    found = [await take(signal, asked, unasked) for signal in signals]
    assert found == [{"longer": 1.0}, {"optional": 1.0}, {"strict": 0.0}]
    signals[0].read = lambda *_: {"a": math.nan, "b": None, "c": 1.0}  # type: ignore[method-assign]
    assert await take(signals[0], asked, unasked) == {"c": 1.0}, "a ledger reads numbers alone"
    with pytest.raises(ConfigurationError, match="returned 'yes': return a number"):
        await taken(UserSignal(lambda q, a: "yes", "mine"))  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("check", [lambda q: 1.0, lambda a, b, c: 1.0, max])
def test_a_signal_that_takes_something_else_is_refused(check: object) -> None:
    with pytest.raises(ConfigurationError, match=r"\(question, answer\)"):
        UserSignal(check)  # type: ignore[arg-type]


async def test_the_first_call_that_fails_ends_the_others() -> None:
    ended = []

    async def ask(probe: Probe) -> Completion:
        if not ended:
            ended.append("failed")
            await asyncio.sleep(0)
            raise TimeoutError
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")
        raise AssertionError(probe)

    with pytest.raises(TimeoutError):
        await take(SelfConsistency(2), ASKED, ask)
    assert ended == ["failed", "cancelled"]


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        ("logprobs", "give a list"),
        (["luck"], "no signal 'luck'"),
        ([3], "no signal 3"),
        (["p_true", BUILT_IN["p_true"]], "two signals are called 'p_true'"),
        (
            [UserSignal(lambda q, a: 1.0, "token_count")],
            "two signals are called 'token_count', one of them built in",
        ),
    ],
)
def test_unknown_and_taken_names_are_refused(wanted: list[SignalLike], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        to_signals(wanted)


def test_a_signal_that_can_be_called_is_one_all_the_same() -> None:
    class Called(SelfConsistency):
        def __call__(self, question: str, answer: str) -> float:
            raise AssertionError(question)

    assert to_signals([own := Called()]) == (own,)


def test_signals_have_an_order_and_checks_a_digest_of_their_words() -> None:
    names = [signal.name for signal in to_signals(["self_consistency", "p_true", "logprobs"])]
    assert names == ["logprobs", "p_true", "self_consistency"], "cheapest first"
    assert set(wordings([*names, "mine"])) == {"p_true"}
    assert len(set(wordings(["p_true", "verbalised"]).values())) == 2


def test_the_most_doubtful_score_is_the_raw_score() -> None:
    assert combine([math.nan, None, 0.4, 0.9]) == 0.4
    assert combine([3.0]) == 1.0
    assert combine([math.nan]) is None


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
