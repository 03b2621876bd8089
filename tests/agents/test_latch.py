"""The rule by which a conversation goes straight to the large model, and what it goes by."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage

from cascade import Cascade, Latch
from cascade.agents.latch import read_latch
from cascade.agents.steps import LOOK_BACK, Outcome, steps_of, told
from cascade.errors import ConfigurationError
from cascade.ledger.tags import tagged
from cascade.state import Run
from cascade.testing import ScriptedModel

TIERS = ("small", "large")
WORDS: dict[str, Outcome] = {"f": "fine", "t": "trouble", "s": "straight"}


def outcomes(letters: str) -> list[Outcome]:
    return [WORDS[letter] for letter in letters]


def straight(letters: str, **options: int) -> bool:
    """Whether the step after these goes straight to the large model."""
    latch = Latch(**options)
    now = latch.standing(outcomes(letters))
    return now.latched and now.good == 0 and now.straight < latch.hold


@pytest.mark.parametrize(
    ("steps", "latched"),
    [
        ("", False),
        ("t", False),
        ("tt", True),
        ("tft", True),
        ("tfft", True),
        ("tffft", False),  # the first one is out of the window
        ("fffff", False),
        ("tst", True),  # what was not drafted says nothing
        ("sssss", False),
    ],
)
def test_it_closes_after_two_of_the_last_four_drafts_in_trouble(steps: str, latched: bool) -> None:
    assert straight(steps) is latched


@pytest.mark.parametrize(
    ("steps", "latched"),
    [
        ("tts", True),
        ("ttss", True),
        ("ttsss", False),  # a draft is tried
        ("ttssst", True),  # in vain
        ("ttssstss", True),
        ("ttssstsss", False),
        ("ttsssf", False),  # accepted: the next step is drafted too
        ("ttsssft", True),  # a single one in trouble is enough before it is open
        ("ttsssff", False),  # open
        ("ttsssfft", False),  # and a single one closes nothing
        ("ttsssfftt", True),
        ("ttsssftsssff", False),
    ],
)
def test_it_opens_after_accepted_drafts_in_a_row(steps: str, latched: bool) -> None:
    assert straight(steps) is latched


@given(st.lists(st.sampled_from(["fine", "trouble"]), max_size=60), st.integers(1, 4))
def test_of_drafts_that_are_all_in_trouble_it_lets_one_in_hold_and_one_through(
    drafts: list[Outcome], hold: int
) -> None:
    """The law that bounds what a hopeless conversation costs, whatever came before."""
    latch = Latch(hold=hold)
    now = latch.standing([*drafts, "trouble", "trouble"])
    made = []
    for _ in range(10 * (hold + 1)):
        goes = now.latched and now.good == 0 and now.straight < latch.hold
        made.append(not goes)
        now = latch.then(now, "straight" if goes else "trouble")
    assert sum(made) == 10


@given(st.lists(st.sampled_from(["fine", "trouble", "straight"]), max_size=40))
def test_it_goes_by_the_steps_alone_and_one_after_the_other(steps: list[Outcome]) -> None:
    latch = Latch()
    whole = latch.standing(steps)
    assert whole == latch.standing(steps)
    now = latch.standing([])
    for step in steps:
        now = latch.then(now, step)
    assert now == whole


@given(st.lists(st.sampled_from(["fine", "trouble"]), min_size=1, max_size=40))
def test_without_trouble_in_the_window_it_is_never_closed(steps: list[Outcome]) -> None:
    latch = Latch(after=3, window=3)
    if "".join(step[0] for step in steps).count("ttt") == 0:
        assert not latch.standing(steps).latched


@pytest.mark.parametrize(
    "options",
    [
        {"after": 0},
        {"window": 0},
        {"hold": 0},
        {"release_after": -1},
        {"after": True},
        {"hold": 1.5},
    ],
)
def test_numbers_below_one_are_refused_by_name(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ConfigurationError, match=rf"Latch\({name}="):
        Latch(**options)


def test_more_trouble_than_the_window_holds_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="after ≤ window"):
        Latch(after=5)


def test_it_is_off_unless_asked_for() -> None:
    assert read_latch(False, 2, None) is None
    assert read_latch(True, 2, None) == Latch()
    assert read_latch(Latch(after=3), 2, None) == Latch(after=3)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"latch": "yes"}, "latch='yes'"),
        ({"latch": None}, "latch=None"),
        ({"latch": True, "small": None}, "only one tier"),
        (
            {"latch": True, "local_only": True, "large": ScriptedModel("l", local=False)},
            "only one tier",
        ),
    ],
)
def test_a_latch_that_cannot_work_is_refused(options: dict[str, Any], complaint: str) -> None:
    small, large = ScriptedModel("s", name="s"), ScriptedModel("l", name="l")
    given: dict[str, Any] = {"small": small, "large": large, **options}
    if given["small"] is None:
        given = {"tiers": [large], "latch": True}
    with pytest.raises(ConfigurationError, match=complaint):
        Cascade(**given)


def test_a_promised_share_of_escalations_is_not_broken_in_silence() -> None:
    with pytest.raises(ConfigurationError, match=r"escalation_budget=0\.2"):
        read_latch(True, 2, 0.2)


# --- what it goes by


def said(
    tier: str, before: tuple[str, ...] = (), *, degraded: bool = False, calls: Any = ()
) -> AIMessage:
    run = Run("r", "q", begun_at=100.0, asked=before)
    metadata = told(run, tier, degraded=degraded)
    return AIMessage("x", response_metadata=metadata, tool_calls=list(calls))


def read(*messages: AnyMessage) -> list[str]:
    return [step.outcome for step in steps_of([HumanMessage("?"), *messages], TIERS)]


def test_an_answer_says_what_became_of_its_draft() -> None:
    assert read(
        said("small"),
        said("large", ("small",)),
        said("large"),
        said("small", degraded=True),
        said("small", ("small",)),
    ) == ["fine", "trouble", "straight", "trouble", "trouble"]


def test_answers_of_others_are_no_steps() -> None:
    assert (
        read(AIMessage("a model"), said("middle"), said("person"), said("large", ("tiny",))) == []
    )
    odd = [AIMessage("x", response_metadata={"step": value}) for value in (3, {}, {"asked": "s"})]
    assert read(*odd) == []


def test_each_agent_goes_by_its_own_steps() -> None:
    with tagged(agent="planner"):
        planned = said("large", ("small",))
    with tagged(agent="writer"):
        wrote = said("small")
        assert read(planned, wrote) == ["fine"]
    with tagged(agent="planner"):
        assert read(planned, wrote) == ["trouble"]
    assert read(planned, wrote) == []


def call(name: str, number: int, **args: Any) -> dict[str, Any]:
    return {"name": name, "args": args, "id": str(number), "type": "tool_call"}


def looked(what: str, result: str, tier: str = "small") -> list[AnyMessage]:
    made = said(tier, calls=[call("look", 1, at=what)])
    return [made, ToolMessage(result, tool_call_id="1")]


def test_the_same_call_with_the_same_result_is_trouble() -> None:
    assert read(*looked("a", "1"), *looked("a", "1"), *looked("a", "1")) == [
        "fine",
        "trouble",
        "trouble",
    ]


def test_going_round_in_a_circle_is_trouble() -> None:
    circle = [*looked("a", "1"), *looked("b", "2")]
    assert read(*circle, *circle) == ["fine", "fine", "trouble", "trouble"]


def test_a_new_result_or_other_arguments_are_progress() -> None:
    assert read(*looked("a", "1"), *looked("a", "2"), *looked("b", "2")) == ["fine"] * 3


def test_a_call_without_a_result_yet_is_no_repetition() -> None:
    made = said("small", calls=[call("look", 1, at="a")])
    assert read(made, made) == ["fine", "fine"]


def test_calls_made_at_once_are_the_same_in_any_order() -> None:
    one, two = call("look", 1, at="a"), call("look", 2, at="b")
    results = [ToolMessage("r", tool_call_id="1"), ToolMessage("r", tool_call_id="2")]
    first, second = said("small", calls=[one, two]), said("small", calls=[two, one])
    assert read(first, *results, second, *reversed(results)) == ["fine", "trouble"]


def test_a_person_who_asks_again_may_need_the_same_call_again() -> None:
    again = HumanMessage("and now?")
    assert read(*looked("a", "1"), again, *looked("a", "1")) == ["fine", "fine"]


def test_what_the_large_model_repeats_is_not_held_against_the_draft() -> None:
    assert read(*looked("a", "1", "large"), *looked("a", "1", "large")) == ["straight"] * 2


def test_a_repetition_is_looked_for_in_the_latest_steps() -> None:
    others = [message for n in range(LOOK_BACK) for message in looked(f"other {n}", "r")]
    assert read(*looked("a", "1"), *others, *looked("a", "1"))[-1] == "fine"
    assert read(*looked("a", "1"), *others[2:], *looked("a", "1"))[-1] == "trouble"
