"""Drafts that call tools which change something, on their way through the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, ToolCall
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from cascade import Cascade, ThresholdPolicy, Tier, ToolRisks
from cascade.agents import Verdict
from cascade.agents.base import Task
from cascade.confidence import Estimate
from cascade.confidence.signals import to_signals
from cascade.errors import ConfigurationError, ModelError, ModelUnavailableError
from cascade.events import Decided
from cascade.graph import DEFAULT_RETRY, build_graph
from cascade.ledger import MemoryLedger
from cascade.policies import CertifiedPolicy
from cascade.state import Certificate, Completion
from cascade.testing import ScriptedModel, reply
from cascade.tiers import open_tiers

ASKED = "Please tidy up."


@tool
def search(q: str) -> str:
    """Search for something."""
    return q


@tool
def save(text: str) -> str:
    """Save a text."""
    return text


@tool
def delete_file(path: str, force: bool = False) -> str:
    """Delete a file."""
    return f"{path} {force}"


TOOLS = [search, save, delete_file]
MARKED: dict[str, Any] = {
    "search": "read",
    "save": "write",
    "delete_file": "irreversible",
}


def calls(name: str, probability: Any = None, /, **args: Any) -> Completion:
    call = ToolCall(name=name, args=args, id="1", type="tool_call")
    return reply("", tool_calls=[call], call_probability=probability)


def sure(confidence: float, *, calibrated: bool = True) -> Any:
    """A judge whose confidence is known."""
    return lambda question, answer: Verdict(confidence=confidence, calibrated=calibrated)


def cascade(
    draft: Completion, *, large: Any = "the large model's answer", **options: Any
) -> Cascade:
    small = ScriptedModel([draft], returns_logprobs=True)
    if not isinstance(large, ScriptedModel):
        large = ScriptedModel([large])
    at_once = DEFAULT_RETRY._replace(initial_interval=0.0, jitter=False)
    given: dict[str, Any] = {"tools": TOOLS, "tool_risks": MARKED, "retry_policy": at_once}
    return Cascade(small, large, **given | options)


# --- the score of a call


def test_the_score_of_a_call_is_that_of_its_name_and_values() -> None:
    draft = calls("search", [0.9, 0.4, 0.9], q="cheap flights")
    result = cascade(draft, tool_risks=None).invoke(ASKED)
    assert result.confidence == pytest.approx((0.9 * 0.4 * 0.9) ** (1 / 3))
    assert not result.calibrated
    assert result.tier == "large"
    assert result.decision.reason == "uncalibrated score 0.687 < 0.800"


def test_a_sure_call_is_accepted_without_another_call() -> None:
    made = cascade(calls("search", 0.95, q="Rome"), tool_risks=None)
    result = made.invoke(ASKED)
    assert result.tier == "small"
    assert result.message.tool_calls[0]["args"] == {"q": "Rome"}
    assert [entry.node for entry in result.ledger.entries] == ["draft", "self_check", "verify"]
    assert sum(entry.model is not None for entry in result.ledger.entries) == 1


def test_a_call_that_is_not_among_the_logprobs_has_no_score_and_says_so() -> None:
    made = cascade(calls("search", q="Rome"), tool_risks=None, signals=["logprobs"])
    result = made.invoke(ASKED)
    assert result.confidence is None
    assert result.tier == "large"
    assert result.decision.reason == (
        "no confidence: logprobs did not come back: the call of search could not be found among "
        "the log-probs that were sent"
    )


def test_without_its_logprobs_a_call_is_checked_by_words_as_a_rule() -> None:
    small = ScriptedModel(
        [calls("search", q="Rome"), reply("True", probability=0.97)], returns_logprobs=True
    )
    result = Cascade(small, ScriptedModel(["large"]), tools=TOOLS).invoke(ASKED)
    assert result.tier == "small"
    assert result.confidence == pytest.approx(0.97)
    assert len(small.requests) == 2


@pytest.mark.parametrize(
    ("draft", "complaint"),
    [
        (calls("serach", 0.99, q="Rome"), "calls a tool that does not exist: serach"),
        (calls("search", 0.99), "'q' is a required property"),
        (calls("search", 0.99, q=7), "does not match its schema at $.q: 7 is not of type 'string'"),
        (calls("delete_file", 0.99, path="a", force="yes"), "at $.force"),
    ],
)
def test_a_call_that_cannot_be_made_is_an_objection_with_its_reason(
    draft: Completion, complaint: str
) -> None:
    result = cascade(draft, tool_risks=None).invoke(ASKED)
    assert result.tier == "large"
    assert complaint in result.decision.reason


# --- the rule


@pytest.mark.parametrize(
    ("confidence", "calibrated", "tier"),
    [(0.995, True, "small"), (0.98, True, "large"), (0.999, False, "large")],
)
def test_an_irreversible_call_takes_a_high_calibrated_confidence(
    confidence: float, calibrated: bool, tier: str
) -> None:
    judge = sure(confidence, calibrated=calibrated)
    made = cascade(calls("delete_file", path="a.txt"), verifier=judge)
    result = made.invoke(ASKED)
    assert result.tier == tier
    assert "delete_file is irreversible" in result.decision.reason
    assert "calibrated confidence of 0.99" in result.decision.reason


def test_an_uncalibrated_irreversible_call_is_escalated_and_the_ledger_says_why() -> None:
    store = MemoryLedger()
    made = cascade(calls("delete_file", 1.0, path="a.txt"), ledger=store)
    *events, result = made.stream(ASKED)
    assert result.tier == "large"  # type: ignore[union-attr]
    (decided,) = [event for event in events if isinstance(event, Decided)]
    assert decided.decision.action == "escalate"
    assert decided.assessment.objection is None, "the draft as it is: nothing is wrong with it"
    (entry,) = [entry for entry in store.entries if entry.node == "verify"]
    assert (entry.action, entry.confidence) == ("escalate", 1.0)
    assert "delete_file is irreversible" in entry.note


@pytest.mark.parametrize(("confidence", "tier"), [(0.85, "large"), (0.92, "small")])
def test_a_call_that_writes_takes_a_milder_confidence(confidence: float, tier: str) -> None:
    assert cascade(calls("save", confidence, text="x")).invoke(ASKED).tier == tier


def test_a_call_that_reads_is_decided_as_ever() -> None:
    assert cascade(calls("search", 0.81, q="x")).invoke(ASKED).tier == "small"


def test_an_unmarked_tool_counts_as_one_that_writes_where_others_are_marked() -> None:
    draft = calls("save", 0.85, text="x")
    some = cascade(draft, tool_risks={"search": "read"}).invoke(ASKED)
    assert some.tier == "large"
    assert "save has no mark and counts as write" in some.decision.reason
    assert cascade(draft, tool_risks=None).invoke(ASKED).tier == "small"


def test_the_demands_can_be_set() -> None:
    risks = ToolRisks(MARKED, irreversible_confidence=0.8, write_confidence=0.5)
    draft = calls("delete_file", path="a.txt")
    assert cascade(draft, tool_risks=risks, verifier=sure(0.85)).invoke(ASKED).tier == "small"
    low = ThresholdPolicy(0.5)
    draft = calls("save", 0.6, text="x")
    assert cascade(draft, tool_risks=risks, policy=low).invoke(ASKED).tier == "small"


@pytest.mark.parametrize(
    ("verdict", "tier"),
    [
        (True, "large"),
        (Verdict(accept=True, confidence=1.0), "large"),
        (Verdict(accept=True, confidence=1.0, calibrated=True), "small"),
        (0.999, "large"),
    ],
)
def test_a_judge_of_the_users_is_held_to_the_rule_as_well(verdict: Any, tier: str) -> None:
    made = cascade(calls("delete_file", path="a"), verifier=lambda question, answer: verdict)
    assert made.invoke(ASKED).tier == tier


class Sure:
    """A calibration that gives every draft with log-probs the same probability."""

    signals = ("logprobs",)

    def __init__(self, p: float) -> None:
        self.p = p

    def mismatch(self, messages: Any) -> str | None:
        return None

    def estimate(self, features: Mapping[str, float], taken: Sequence[str]) -> Estimate | None:
        return Estimate(self.p) if "logprob_mean" in features else None

    def outlook(self, confidence: float, taken: Sequence[str]) -> tuple[float, ...]:
        return ()


@pytest.mark.parametrize(
    ("p", "probability", "tier"), [(0.995, 0.6, "s"), (0.98, 0.6, "l"), (0.995, None, "l")]
)
def test_under_a_certificate_a_calibrated_call_is_held_to_both(
    p: float, probability: float | None, tier: str
) -> None:
    certificate = Certificate(
        threshold=0.7, max_harm=0.1, delta=0.1, n=100, errors=3, coverage=0.6, bound=0.08
    )
    small = ScriptedModel([calls("delete_file", probability, path="a")], returns_logprobs=True)
    made = open_tiers([small, ScriptedModel(["large"])], ("s", "l"))
    task = cascade(calls("search", q="x")).task
    graph: Any = build_graph(
        made,
        CertifiedPolicy(certificate),
        task=task,
        signals=to_signals(["logprobs"]),
        calibrators={"s": Sure(p)},
    ).compile()
    state = graph.invoke({"messages": [("human", ASKED)]})
    assert state["messages"][-1].response_metadata["tier"] == tier
    reason = state["decision"].reason
    if probability is None:
        assert "the call of delete_file could not be found" in reason
    else:
        assert "harm ≤ 10.0% with 90% confidence" in reason
        assert "delete_file is irreversible" in reason


# --- no other way back for a call that was not accepted


def down() -> ScriptedModel:
    return ScriptedModel(["never"], failures=[ModelUnavailableError("down", model="m")] * 9)


def test_an_irreversible_draft_is_no_stopgap_while_the_large_model_is_down() -> None:
    made = cascade(calls("delete_file", 0.95, path="a"), large=down())
    with pytest.raises(ModelError, match="down"):
        made.invoke(ASKED)


def test_other_drafts_are_a_stopgap_as_ever() -> None:
    result = cascade(calls("save", 0.85, text="x"), large=down()).invoke(ASKED)
    assert result.degraded
    assert result.message.tool_calls[0]["name"] == "save"


def test_a_deadline_brings_no_irreversible_call_back() -> None:
    slow = ScriptedModel(["late"], delay_s=0.4)
    made = cascade(calls("delete_file", 0.95, path="a"), large=slow, deadline=0.2)
    with pytest.raises(ModelError):
        made.invoke(ASKED)


def test_what_stays_here_is_abstained_from_and_not_called() -> None:
    made = cascade(
        calls("delete_file", 0.95, path="a"),
        large=ScriptedModel(["large"], local=False),
        local_only=True,
    )
    result = made.invoke(ASKED)
    assert result.abstained
    assert not result.message.tool_calls
    assert "delete_file is irreversible" in result.decision.reason


def test_a_middle_tier_that_fails_does_not_bring_it_back() -> None:
    small = ScriptedModel([calls("delete_file", 0.95, path="a")], returns_logprobs=True)
    tiers = [Tier(small, name="s"), Tier(down(), name="m"), Tier(down(), name="l")]
    at_once = DEFAULT_RETRY._replace(initial_interval=0.0, jitter=False)
    made = Cascade(tiers=tiers, tools=TOOLS, tool_risks=MARKED, retry_policy=at_once)
    with pytest.raises(ModelError, match="down"):
        made.invoke(ASKED)


# --- marks


def test_tools_can_be_marked_themselves() -> None:
    by_metadata = delete_file.model_copy(update={"metadata": {"risk": "irreversible", "a": 1}})
    by_extras = save.model_copy(update={"extras": {"risk": "write"}})
    made = cascade(
        calls("delete_file", 1.0, path="a"), tools=[by_metadata, by_extras, search], tool_risks=None
    )
    assert made.task.risks.tools == {"delete_file": "irreversible", "save": "write"}
    assert made.invoke(ASKED).tier == "large"


def test_the_greater_risk_of_two_marks_holds_and_a_name_before_both() -> None:
    marks = {"metadata": {"risk": "read"}, "extras": {"risk": "irreversible"}}
    both = delete_file.model_copy(update=marks)
    made = cascade(calls("delete_file", 1.0, path="a"), tools=[both], tool_risks=None)
    assert made.task.risks.of("delete_file") == "irreversible"
    said = cascade(
        calls("delete_file", 1.0, path="a"), tools=[both], tool_risks={"delete_file": "read"}
    )
    assert said.invoke(ASKED).tier == "small"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"tool_risks": {"delete_fil": "irreversible"}}, "no tool 'delete_fil'.*delete_file"),
        ({"tool_risks": {"delete_file": "bad"}}, "'delete_file' is 'bad'"),
        ({"tool_risks": "irreversible"}, "tool_risks='irreversible'"),
        (
            {
                "tools": [delete_file.model_copy(update={"metadata": {"risk": "low"}})],
                "tool_risks": None,
            },
            "'delete_file' is marked risk='low'",
        ),
    ],
)
def test_what_cannot_be_a_mark_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        cascade(calls("search", q="x"), **options)


def test_a_task_keeps_the_marks_of_its_cascade() -> None:
    small = ScriptedModel([calls("delete_file", 1.0, path="a")], returns_logprobs=True)
    made = Cascade(small, ScriptedModel(["large"]), tool_risks=MARKED)
    other = Task(tools=cascade(calls("search", q="x")).task.tools)
    assert made.with_task(other).invoke(ASKED).tier == "large"
    own = replace(other, risks=ToolRisks({"save": "read"}, write_confidence=0.7))
    merged = made.with_task(own)
    assert merged.task.risks.tools == {**MARKED, "save": "read"}
    assert merged.task.risks.write_confidence == 0.7
    assert merged.invoke(ASKED).tier == "large"
    unmarked = replace(other, risks=ToolRisks({"delete_file": "read"}))
    assert made.with_task(unmarked).invoke(ASKED).tier == "small"


# --- the last tier's own calls

ASKING = ToolRisks(MARKED, irreversible="ask")


def asking(large: Any, **options: Any) -> Any:
    made = cascade(calls("delete_file", 1.0, path="a"), large=large, tool_risks=ASKING, **options)
    return made.build_graph().compile(checkpointer=InMemorySaver())


THREAD: Any = {"configurable": {"thread_id": "t"}}


def begin(graph: Any) -> dict[str, Any]:
    state: dict[str, Any] = graph.invoke({"messages": [("human", ASKED)]}, THREAD)
    return state


def test_what_the_last_tier_calls_stands_unless_a_person_wants_to_see_it() -> None:
    result = cascade(
        calls("delete_file", 1.0, path="a"), large=calls("delete_file", path="b")
    ).invoke(ASKED)
    assert (result.tier, result.message.tool_calls[0]["args"]) == ("large", {"path": "b"})


def test_a_person_is_shown_an_irreversible_call_of_the_last_tier() -> None:
    state = begin(asking(calls("delete_file", path="b")))
    (interrupt,) = state["__interrupt__"]
    assert interrupt.value["calls"] == [{"name": "delete_file", "args": {"path": "b"}}]
    assert interrupt.value["tier"] == "large"
    assert "delete_file is irreversible" in interrupt.value["reason"]
    assert state["messages"][-1].type == "human", "nothing is answered yet"


@pytest.mark.parametrize("said", ["accept", "reject", {"answer": "Do it yourself."}])
async def test_a_person_has_the_last_word_and_nothing_is_paid_twice(said: Any) -> None:
    graph = asking(calls("delete_file", path="b"))
    begin(graph)
    state = await graph.ainvoke(Command(resume=said), THREAD)
    assert [entry.node for entry in state["ledger"]] == [
        "draft",
        "self_check",
        "verify",
        "expert",
        "ask",
    ]
    assert "a person" in state["ledger"][-1].note
    last = state["messages"][-1]
    if said == "reject":
        assert last.type == "human"
        assert state["decision"].action == "abstain"
    elif said == "accept":
        assert isinstance(last, AIMessage)
        assert last.tool_calls[0]["args"] == {"path": "b"}
        assert last.response_metadata["tier"] == "large"
        assert "a person approved of the call of delete_file" in state["decision"].reason
    else:
        assert (last.text, last.response_metadata["tier"]) == ("Do it yourself.", "person")
    assert state["proposal"] is None
    again = begin(graph)
    assert "__interrupt__" in again, "the next question begins anew"


def test_other_answers_of_the_last_tier_are_shown_to_nobody() -> None:
    assert begin(asking("No need."))["messages"][-1].text == "No need."
    last = begin(asking(calls("save", text="b")))["messages"][-1]
    assert last.tool_calls[0]["name"] == "save"


def test_a_draft_that_is_sure_enough_asks_nobody() -> None:
    state = begin(asking("never", verifier=sure(0.999)))
    assert state["messages"][-1].tool_calls[0]["args"] == {"path": "a"}


def test_a_cascade_of_one_tier_asks_as_well() -> None:
    model = ScriptedModel([calls("delete_file", path="b")])
    made = Cascade(tiers=[model], tools=TOOLS, tool_risks=ASKING)
    graph: Any = made.build_graph().compile(checkpointer=InMemorySaver())
    assert "__interrupt__" in begin(graph)
    state = graph.invoke(Command(resume="accept"), THREAD)
    assert state["messages"][-1].tool_calls
    assert len(model.requests) == 1


def test_a_question_that_goes_another_way_first_is_asked_about_all_the_same() -> None:
    model = ScriptedModel([calls("delete_file", path="b")])
    made = Cascade(tiers=[model], tools=TOOLS, tool_risks=ASKING)
    graph: Any = made.build_graph().compile(checkpointer=InMemorySaver())
    stays: Any = {"configurable": {"thread_id": "t", "local_only": True}}
    state = graph.invoke({"messages": [("human", ASKED)]}, stays)
    assert state["__interrupt__"]
    assert "route" in [entry.node for entry in state["ledger"]]


def test_nobody_is_asked_about_a_large_model_that_is_down() -> None:
    with pytest.raises(ModelError, match="down"):
        begin(asking(down()))


def test_a_word_that_is_no_answer_asks_again() -> None:
    graph = asking(calls("delete_file", path="b"))
    begin(graph)
    with pytest.raises(Exception, match="'accept', 'reject' or"):
        graph.invoke(Command(resume="yes"), THREAD)
    assert graph.invoke(Command(resume="accept"), THREAD)["messages"][-1].tool_calls


def test_asking_needs_a_checkpointer() -> None:
    made = cascade(
        calls("delete_file", 1.0, path="a"), large=calls("delete_file", path="b"), tool_risks=ASKING
    )
    with pytest.raises(ConfigurationError, match="checkpointer"):
        made.invoke(ASKED)
    with pytest.raises(ConfigurationError, match="HumanInTheLoopMiddleware"):
        made.as_chat_model()
