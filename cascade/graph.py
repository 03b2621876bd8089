"""The agents as nodes of a LangGraph `StateGraph`. Imported only where LangGraph is asked for.

Each node takes the run from the state, lets the kernel take it one step further, and says by
`Command` where to go. The run travels as JSON, so any serializer can keep it; messages keep their
own channel, so the graph fits into any LangGraph app.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import aclosing
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

from langchain_core.messages import AnyMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime, get_runtime
from langgraph.types import Command, interrupt
from pydantic import JsonValue, ValidationError
from typing_extensions import TypedDict  # of typing's own, servers make no schema in 3.11

from cascade._portal import run_sync
from cascade.errors import InputError
from cascade.models.base import WithheldModel
from cascade.run import CascadeRuntime, Reader, Run, Settings, Show, read_settings
from cascade.state import Record

if TYPE_CHECKING:
    from cascade.kernel import Kernel

SHOW = "show"
"""Key of `config["configurable"]`: what a stream of events (`stream_mode="custom"`) shows."""


class CascadeInput(TypedDict, total=False):
    """Input of the graph: a conversation, and the settings of its last question."""

    messages: Annotated[list[AnyMessage], add_messages]
    settings: Settings | None


class CascadeState(CascadeInput, total=False):
    """State that the nodes share: the conversation, and the run as JSON."""

    run: dict[str, JsonValue]


class OwnAnswer(Record):
    """A person's own answer, in place of the draft."""

    answer: str


# Checked by the engine: a reply that does not match is not saved, and the person is asked again.
_REPLY: Any = Literal["accept", "escalate", "reject"] | OwnAnswer

WAYS = {
    "router": ("draft", "expert", "audit", END),
    "draft": ("self_check", "draft", "expert", END),
    "self_check": ("verify",),
    "verify": ("self_check", "draft", "expert", "person", END),
    "expert": ("person", END),
    "person": ("draft", "expert", END),
    "audit": (END,),
}
"""Where each node may go. Without a rule there is no router: the draft is where a run begins."""


def build_graph(kernel: Kernel) -> StateGraph[CascadeState, Any, CascadeInput, CascadeState]:
    """A fresh, uncompiled graph of a cascade, to be rewired or compiled with a checkpointer."""
    builder = StateGraph(CascadeState, input_schema=CascadeInput)
    first = "draft" if kernel.parts.route is None else "router"
    # A cascade that keeps to this machine has no way out of it, also not by mistake.
    shut = isinstance(kernel.tiers[-1].model, WithheldModel)
    left_out = {"router"} - {first} | ({"expert", "audit"} if shut else set())
    for name, ways in WAYS.items():
        if name not in left_out:
            begins = WAYS["router"] if name == first else ()
            to = tuple(dict.fromkeys(w for w in (*ways, *begins) if w not in left_out))
            builder.add_node(name, _Node(kernel, left_out), destinations=to)
    builder.add_edge(START, first)
    return builder


class _Node(Runnable[Any, Any]):
    """The agent whose turn it is as a node, for LangGraph's asynchronous and synchronous runs."""

    def __init__(self, kernel: Kernel, left_out: set[str]) -> None:
        self._kernel, self._left_out = kernel, left_out

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:  # noqa: A002
        kernel, around, config = self._kernel, get_runtime(), config or {}
        run = _run_of(kernel, input, around)
        configurable = config.get("configurable") or {}
        show: Show = configurable.get(SHOW, "verified")
        runtime = kernel.runtime(config, show)
        if show != "final":
            runtime.emit, runtime.streams = around.stream_writer, SHOW in configurable
        if run.step == "person":
            runtime.said = _ask_person(run)
        begins = run.step == "begin"
        await kernel.advance(run, runtime)
        if begins and run.step == "draft" and kernel.parts.route is None:
            await kernel.advance(run, runtime)  # without a rule, routing is no step of its own
        while run.step in self._left_out:  # an expert elsewhere, who says why nobody is asked
            await kernel.advance(run, runtime)
        update: dict[str, Any] = {"run": run.to_json(), "settings": None}
        if run.step == "end" and run.answer is not None:
            update["messages"] = [run.to_message()]
        return Command(goto=END if run.step == "end" else run.step, update=update)

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:  # noqa: A002
        return run_sync(self.ainvoke(input, config, **kwargs))


def _run_of(kernel: Kernel, state: CascadeState, runtime: Runtime[Any]) -> Run:
    """The run that the state is in, or a new one when the last message is a new question."""
    messages = list(state.get("messages") or ())
    if not messages:
        raise InputError("the graph was given no messages: give {'messages': [...]}, a question.")
    kept = state.get("run")
    if kept and kept["question_id"] == (messages[-1].id or "") and kept.get("step") != "end":
        return Run.from_json(kept, messages)
    given = state.get("settings")  # a graph around ours may mean something else by this name
    run = kernel.begin(messages, None if given is None else read_settings(given))
    # Retries of the first node are the same run: what middleware did for it, it did once.
    info = runtime.execution_info
    if info is not None and info.checkpoint_id:
        run.id = f"{info.checkpoint_id}"
    return run


def _ask_person(run: Run) -> object:
    """Interrupt the graph until a person has replied."""
    draft, decision = run.draft, run.decision
    assert draft is not None
    assert decision is not None
    shown = {
        "question": run.question,
        "draft": draft.transcript,
        "calls": [{"name": call["name"], "args": call["args"]} for call in draft.tool_calls],
        "tier": draft.tier,
        "confidence": decision.confidence,
        "reason": decision.reason,
    }
    try:
        said = interrupt(shown, response_schema=_REPLY)
    except ValidationError as error:
        given = error.errors()[0]["input"]
        raise InputError(
            f"resumed with {given!r}: resume with 'accept', 'escalate', 'reject' or "
            "{'answer': '…'}."
        ) from error
    return {"answer": said.answer} if isinstance(said, OwnAnswer) else said


async def drive_seen(
    graph: CompiledStateGraph[Any, Any, Any, Any], run: Run, runtime: CascadeRuntime
) -> None:
    """Take a run to its end by a graph without checkpoints, for callbacks and tracers to see."""
    state: Any = None
    steps: Any = graph.astream(*_asked(run, runtime), stream_mode=["custom", "values"])
    async with aclosing(steps) as pieces:
        async for mode, value in pieces:
            if mode == "custom":
                runtime.emit(value)
            else:
                state = value
    _become(run, Run.from_json(state["run"], state["messages"]))


async def drive_kept(
    graph: CompiledStateGraph[Any, Any, Any, Any], run: Run, runtime: CascadeRuntime
) -> bool:
    """Take a run to its end within a node of a graph with a checkpointer; False where another
    question was kept at this place.

    LangGraph keeps nested runs by the position of their call: what was paid before an interrupt is
    not paid again, but a second question may find the first one's answer, or another cascade's.
    """
    asked, config = _asked(run, runtime)
    state = await graph.ainvoke(asked, config)
    done = Run.from_json(state["run"], state["messages"])
    if done.settings.get("of") != asked["settings"]["of"]:
        return False
    Reader(runtime, done.source).settle(done.answer.text if done.answer else "")
    _become(run, done)
    return True


def _asked(run: Run, runtime: CascadeRuntime) -> tuple[dict[str, Any], RunnableConfig]:
    """Input of the graph, with a hash that tells the question to this cascade from others."""
    parts = runtime.kernel.parts
    texts = [[message.type, message.content] for message in run.messages]
    chain = [f"{tier.name}={tier.model.name}@{tier.model.server}" for tier in parts.tiers]
    held = json.dumps([parts.name, chain, texts, run.settings], sort_keys=True, default=repr)
    settings = {**run.settings, "of": hashlib.sha256(held.encode()).hexdigest()}
    config: Any = dict(runtime.config or {})
    config["configurable"] = {**(config.get("configurable") or {}), SHOW: runtime.show}
    return {"messages": run.messages, "settings": settings}, config


def _become(run: Run, done: Run) -> None:
    for field in fields(Run):
        setattr(run, field.name, getattr(done, field.name))
