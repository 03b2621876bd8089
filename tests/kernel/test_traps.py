"""What went wrong in a sketch of the kernel, each with the promise that it must not again."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import RetryPolicy

from cascade import CascadeMiddleware, Decision, LedgerEntry, LedgerStore, Situation, errors
from cascade.confidence import Probe, Signal
from cascade.confidence.calibration import Estimate
from cascade.kernel import Kernel
from cascade.ledger import MemoryLedger
from cascade.middleware import Deadline, ToolRisks
from cascade.policies import AbstainPolicy, EconomicPolicy
from cascade.run import Answer, Run
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply
from tests.acceptance.setups import shown
from tests.kernel.drivers import Graph, cascade_of, scripted

DOWN = errors.ModelUnavailableError("503 from the server", model="scripted:l")
DRAFTED = ["draft", "self_check", "verify"]
THREAD: Any = {"configurable": {"thread_id": "1"}}


class Asking:
    def decide(self, situation: Situation) -> Decision:
        return Decision(action="ask", reason="a person has to see this")


async def test_before_run_sees_one_run_however_often_its_node_is_tried() -> None:
    seen: list[str] = []

    class Fails(CascadeMiddleware):
        async def before_run(self, run: Any, runtime: Any) -> None:
            seen.append(run.id)
            if len(seen) < 3:
                raise errors.ModelUnavailableError("not yet", model="m")

    graph = cascade_of(middleware=[Fails()]).build_graph()
    graph.nodes["draft"].retry_policy = RetryPolicy(
        initial_interval=0.001, jitter=False, max_attempts=3, retry_on=errors.ModelUnavailableError
    )
    compiled = graph.compile(checkpointer=InMemorySaver())
    await compiled.ainvoke({"messages": [HumanMessage("?")]}, THREAD)
    assert (len(seen), len(set(seen))) == (3, 1)


async def test_masked_words_are_shown_unmasked(driver: Any) -> None:
    class Masking(CascadeMiddleware):
        async def wrap_model_call(self, call: Any, handler: Any) -> Any:
            completion = await handler(call)
            return replace(completion, text=completion.text.replace("Canberra", "Anna"))

    outcome = await driver(cascade_of(scripted(sure=0.1), middleware=[Masking()])).ask()
    assert outcome.shown == "Anna it is" == outcome.result.answer


async def test_a_persons_time_does_not_use_up_the_deadline(driver: Any) -> None:
    cascade = cascade_of(policy=Asking(), middleware=[Deadline(30)])
    paused = await driver(cascade).ask()
    kept = paused.run.to_json()
    assert kept["paused_at"] is not None
    run = Run.from_json(kept, paused.run.messages)
    run.begun_at -= 3600
    assert run.paused_at is not None
    run.paused_at -= 3600
    result = await cascade.aresume(run, "escalate")
    assert result.tier == "large"
    with pytest.raises(errors.InputError, match="waits for a person"):
        await cascade.aresume(run, "reject")


async def test_what_is_resumed_is_read_by_the_format_of_its_question(driver: Any) -> None:
    driven = driver(cascade_of(scripted('"Sydney"'), policy=Asking()))
    await driven.ask(schema={"type": "string"})
    assert (await driven.resume("accept")).result.parsed == "Sydney"


async def test_a_run_is_small_json_once_its_features_are_taken() -> None:
    words = " ".join(["word"] * 500)
    outcome = await Graph(cascade_of(scripted(words))).ask()
    assert len(json.dumps(outcome.run.to_json())) < 10_000
    assert outcome.run.draft.logprobs is None


async def test_cancelled_while_an_attempt_is_begun_nothing_stays_begun() -> None:
    entered, free, begun = asyncio.Event(), asyncio.Event(), set[str]()

    class Slow(MemoryLedger):
        async def begin(self, entry: LedgerEntry, tags: Any = None) -> None:
            entered.set()
            await free.wait()
            begun.add(entry.id)

        def withdraw(self, entry_id: str) -> None:
            begun.remove(entry_id)

    small = scripted()
    asking = asyncio.ensure_future(cascade_of(small, ledger=Slow()).ainvoke("?"))
    await entered.wait()
    asking.cancel()
    await asyncio.sleep(0)
    free.set()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (begun, small.requests) == (set(), [])


async def test_callbacks_see_each_call_and_change_nothing() -> None:
    names: list[str] = []

    class Seeing(AsyncCallbackHandler):
        async def on_chat_model_start(self, serialized: Any, messages: Any, **more: Any) -> None:
            names.append(more["metadata"]["cascade_node"])

    handler = Seeing()
    cascade = cascade_of(scripted(sure=0.2))
    result = await cascade.ainvoke("?", {"callbacks": [handler]})
    assert names == ["draft", "expert"]
    assert result.tier == "large"
    assert [e.node for e in result.ledger] == ["draft", "self_check", "verify", "expert"]
    events = [e async for e in cascade.astream("?", {"callbacks": [handler]})]
    assert events[-1].answer == "Canberra it is"


async def test_a_draft_that_may_still_be_rejected_is_not_read_as_the_answer() -> None:
    unsure = cascade_of(scripted(sure=0.3))
    graph = unsure.build_graph().compile(
        checkpointer=InMemorySaver(), interrupt_before=["verify", "expert"]
    )
    given: Any = {"messages": [HumanMessage("?")]}
    for step in ("verify", "expert"):
        state = await graph.ainvoke(given, THREAD)
        with pytest.raises(errors.InputError, match=f"'{step}' is next"):
            unsure.read(state)
        given = None
    assert unsure.read(await graph.ainvoke(None, THREAD)).tier == "large"


@pytest.mark.parametrize(
    "error",
    [
        errors.RateLimitError("slow down", model="m", retry_after=3),
        errors.CircuitOpenError("left alone", model="m", ready_in_s=2),
        errors.PersonNeededError(
            "a person is asked", Run("r", "1", messages=[HumanMessage("?", id="1")])
        ),
        errors.ConfigurationError("wrong"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_come_back_from_other_processes_as_they_were(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


async def test_a_note_that_is_no_json_is_the_middlewares_error() -> None:
    class Notes(CascadeMiddleware):
        async def before_run(self, run: Any, runtime: Any) -> None:
            run.notes[self.name] = {"store": object()}

    with pytest.raises(errors.ExtensionError, match=r"run\.notes\['notes'\] .*no JSON") as raised:
        await Graph(cascade_of(middleware=[Notes()])).ask()
    assert [entry.node for entry in raised.value.ledger] == ["draft"]


async def test_the_first_failure_of_a_batch_stops_the_others_and_books_them() -> None:
    store = MemoryLedger()
    small = scripted([ValueError("a bug")], delay_s=0.001)
    with pytest.raises(Exception, match="ValueError"):
        await cascade_of(small, ledger=store).abatch(["1", "2", "3"])
    assert len(small.requests) == len([e for e in store.entries if e.model])


async def test_an_observer_that_raises_is_an_error_with_what_was_spent(driver: Any) -> None:
    class Broken(CascadeMiddleware):
        async def wrap_step(self, run: Any, runtime: Any, handler: Any) -> None:
            await handler(run, runtime)
            if run.step == "verify":
                raise KeyError("no such gauge")

    with pytest.raises(errors.ExtensionError, match=r"KeyError in .*Broken\.wrap_step") as raised:
        await driver(cascade_of(middleware=[Broken()])).ask()
    assert [entry.node for entry in raised.value.ledger.entries] == ["draft", "self_check"]


async def test_what_another_cascade_has_spent_is_no_account_of_this_one(driver: Any) -> None:
    inner = cascade_of(scripted([errors.AuthenticationError("no key", model="scripted:s")]))

    async def verifier(question: str, answer: str) -> bool:
        return (await inner.ainvoke("Is it right?")).answer == "yes"

    with pytest.raises(errors.AuthenticationError) as raised:
        await driver(cascade_of(verifier=verifier)).ask()
    assert [entry.node for entry in raised.value.ledger] == ["draft", "self_check"]


class Forgetful(CascadeMiddleware):
    async def wrap_model_call(self, call: Any, handler: Any) -> Any:
        await handler(call)


class Blunt(CascadeMiddleware):
    async def before_run(self, run: Any, runtime: Any) -> Any:
        return "42"


class Shrugging(CascadeMiddleware):
    def wrap_decision(self, run: Any, situation: Any, handler: Any) -> Any:
        handler(situation)


class Dancing(CascadeMiddleware):
    def wrap_decision(self, run: Any, situation: Any, handler: Any) -> Any:
        return handler(situation).model_copy(update={"action": "dance"})


class Standing(CascadeMiddleware):
    async def wrap_step(self, run: Any, runtime: Any, handler: Any) -> None:
        if run.step != "verify":
            await handler(run, runtime)


@pytest.mark.parametrize(
    ("middleware", "words"),
    [
        (Forgetful(), "forgetful.wrap_model_call returned None: return a Completion"),
        (Blunt(), "blunt.before_run returned '42': return an Answer"),
        (Shrugging(), "shrugging.wrap_decision returned None: return a Decision"),
        (Dancing(), r"dancing.wrap_decision returned Decision\(action='dance'.*one of accept"),
        (Standing(), r"standing.wrap_step: `await handler\(run, runtime\)` is missing"),
    ],
    ids=lambda value: "" if isinstance(value, str) else value.__class__.__name__,
)
async def test_a_hook_that_returns_something_else_is_named(
    driver: Any, middleware: Any, words: str
) -> None:
    with pytest.raises(errors.ExtensionError, match=words) as raised:
        await driver(cascade_of(middleware=[middleware])).ask()
    assert raised.value.ledger is not None


async def test_what_cannot_be_closed_keeps_no_other_open() -> None:
    class Stuck(CascadeMiddleware):
        async def aclose(self) -> None:
            raise OSError("stuck")

    closed: list[str] = []

    class Closing(ScriptedModel):
        async def aclose(self) -> None:
            closed.append(self.model)

    cascade = cascade_of(Closing("a", name="s"), Closing("b", name="l"), middleware=[Stuck()])
    with pytest.raises(OSError, match="stuck"):
        await cascade.aclose()
    assert closed == ["s", "l"]


async def test_a_store_or_a_listener_that_raises_loses_no_answer_and_no_entry(
    driver: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(LedgerStore):
        def append(self, entries: Sequence[LedgerEntry], tags: Any = None) -> None:
            raise OSError("no space")

    def listen(entry: LedgerEntry) -> None:
        raise KeyError("no such gauge")

    cascade = cascade_of(ledger=Broken())
    cascade.kernel.ledger.listeners.append(listen)
    outcome = await driver(cascade).ask()
    assert outcome.nodes == DRAFTED
    assert "no space" in caplog.text
    assert "no such gauge" in caplog.text


async def test_a_stream_within_a_graph_shows_no_draft_that_is_no_answer() -> None:
    cascade, seen = cascade_of(policy=AbstainPolicy(EconomicPolicy(9.0), 0.0)), list[Any]()

    async def node(state: MessagesState) -> None:
        seen.extend([event async for event in cascade.astream("?")])

    graph = StateGraph(MessagesState).add_node(node).add_edge(START, "node").compile()
    await graph.ainvoke({"messages": []}, THREAD)
    assert (seen[-1].abstained, shown(seen)) == (True, "")


async def test_an_answer_of_a_middleware_is_no_escalation(driver: Any) -> None:
    class Glossary(CascadeMiddleware):
        async def before_run(self, run: Any, runtime: Any) -> Answer:
            return Answer(Completion("It is Canberra", self.name), None, self.name)

    outcome = await driver(cascade_of(middleware=[Glossary()])).ask()
    assert outcome.result is not None
    assert (outcome.result.tier, outcome.result.escalated) == ("glossary", False)


# --- persons


@pytest.mark.parametrize(
    ("said", "tier", "answer"),
    [
        ("accept", "small", "Sydney perhaps"),
        ("escalate", "large", "Canberra it is"),
        ("reject", "small", ""),
        ({"answer": "Canberra!"}, "person", "Canberra!"),
    ],
)
async def test_a_person_decides_whether_a_checkpoint_keeps_the_run_or_the_caller(
    driver: Any, said: Any, tier: str, answer: str
) -> None:
    driven = driver(cascade_of(policy=Asking()))
    paused = await driven.ask()
    assert (paused.run.step, paused.shown, paused.result) == ("person", "", None)
    with pytest.raises(errors.InputError, match="resumed with 'perhaps'"):
        await driven.resume("perhaps")
    outcome = await driven.resume(said)
    assert (outcome.result.tier, outcome.result.answer) == (tier, answer)
    assert outcome.shown == (answer if driver is Graph else "")
    assert (outcome.nodes.count("draft"), outcome.nodes.count("person")) == (1, 1)


# --- signals, settings, failures


class Observing:
    def decide(self, situation: Situation) -> Decision:
        if situation.next_signal is not None:
            return Decision(action="observe", reason="one more")
        return Decision(action="accept", reason="enough")


class Free(Signal):
    name = "free"

    def read(self, asked: Any, replies: Any) -> dict[str, float]:
        return {self.name: 0.5}

    def score(self, features: Any) -> float:
        return 0.5


class Paid(Free):
    name, calls = "paid", 1

    def probes(self, asked: Any, replies: Any) -> Any:
        return () if replies else [Probe(tuple(asked.messages))]


class TwoStages:
    calibrated = True
    signals = ("free", "paid")

    def mismatch(self, messages: Any) -> None:
        return None

    def estimate(self, features: Any, taken: Any) -> Any:
        return Estimate(0.6)

    def outlook(self, confidence: float, taken: Any) -> tuple[float, ...]:
        return (0.2, 0.9)


async def test_a_policy_may_pay_for_one_more_signal(driver: Any) -> None:
    cascade = cascade_of(signals=[Free(), Paid()], policy=Observing())
    parts = replace(cascade.kernel.parts, calibrators={"small": TwoStages()})
    cascade.kernel = Kernel(parts)
    outcome = await driver(cascade).ask()
    assert outcome.nodes == [*DRAFTED, "self_check", "verify"]
    assert (outcome.result.tier, outcome.result.decision.reason) == ("small", "enough")
    assert outcome.shown == outcome.result.answer


async def test_settings_travel_with_their_question_as_what_they_mean(driver: Any) -> None:
    small = scripted()
    driven = driver(cascade_of(small))
    await driven.ask(max_tokens="7", temperature="0.5", stop=["END"])
    await driven.ask()
    sent = [(r.max_tokens, type(r.max_tokens), r.temperature, r.stop) for r in small.requests]
    assert sent == [(7, int, 0.5, ("END",)), (None, type(None), None, ())]


CALL = {"name": "delete", "args": {"x": 1}, "id": "1", "type": "tool_call"}
TOOLS = [{"type": "function", "function": {"name": "delete", "parameters": {}}}]
RISK = ToolRisks({"delete": "irreversible"})
REFUSED = errors.AuthenticationError("401: wrong key", model="scripted:s")
DELETES, HERE = reply("", tool_calls=[CALL], call_probability=0.9), {"local_only": True}


@pytest.mark.parametrize(
    ("draft", "options", "error", "spent"),
    [
        (REFUSED, {}, errors.AuthenticationError, ["draft"]),
        ("{", {"response_format": {"type": "object"}}, errors.ModelUnavailableError, DRAFTED),
        (DELETES, {"middleware": [RISK], "tools": TOOLS}, errors.ModelUnavailableError, DRAFTED),
        (DELETES, {"middleware": [RISK], "tools": TOOLS, **HERE}, errors.LocalOnlyError, DRAFTED),
        (DOWN, HERE, errors.ModelUnavailableError, ["draft"]),
    ],
    ids=["a wrong key", "ruled out", "irreversible", "irreversible here", "nobody here"],
)
async def test_what_may_be_no_answer_is_an_error_with_what_was_spent(
    driver: Any, draft: Any, options: Any, error: type[Exception], spent: list[str]
) -> None:
    with pytest.raises(error) as raised:
        await driver(cascade_of(scripted([draft]), scripted([DOWN], local=False), **options)).ask()
    ledger: Any = getattr(raised.value, "ledger", None)
    assert [entry.node for entry in ledger][: len(spent)] == spent
