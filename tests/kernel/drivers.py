"""The two drivers of a run, told apart by nothing but their names."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from cascade import Cascade, CascadeResult, Price, Provisional, Retracted, Run, Tier, Token
from cascade.errors import PersonNeededError
from cascade.middleware import Retries
from cascade.run import CascadeRuntime
from cascade.testing import ScriptedModel, reply

QUESTION = "What is the capital of Australia?"
PRICE = {"small": Price(input=1, output=2), "large": Price(input=100, output=400)}


def scripted(
    answer: Any = "Sydney perhaps", *, sure: float | None = 0.95, name: str = "s", **more: Any
) -> ScriptedModel:
    """A model with one answer."""
    answers = [reply(answer, probability=sure)] if isinstance(answer, str) else answer
    return ScriptedModel(answers, name=name, **more)


def cascade_of(
    small: ScriptedModel | None = None,
    large: ScriptedModel | None = None,
    middleware: Sequence[Any] = (),
    **options: Any,
) -> Cascade:
    """A cascade of scripted models whose retries do not wait."""
    if not any(isinstance(one, Retries) for one in middleware):
        middleware = (*middleware, Retries(base_s=0))
    return Cascade(
        Tier(small or scripted(), price=PRICE["small"]),
        Tier(large or scripted("Canberra it is", sure=None, name="l"), price=PRICE["large"]),
        middleware=middleware,
        **options,
    )


@dataclass
class Outcome:
    """What a reader of a stream and a caller got."""

    result: CascadeResult | None
    run: Run
    events: list[Any] = field(default_factory=list)

    @property
    def shown(self) -> str:
        """What the reader of the stream holds in the end."""
        text = ""
        for event in self.events:
            if isinstance(event, Token | Provisional):
                text += event.text
            elif isinstance(event, Retracted):
                text = ""
        return text

    @property
    def nodes(self) -> list[str]:
        """Nodes of the entries, in order."""
        return [entry.node for entry in self.run.entries]


class Loop:
    """Runs without LangGraph."""

    name = "loop"

    def __init__(self, cascade: Cascade, **compiled: Any) -> None:
        del compiled
        self.cascade = cascade
        self._run: Run | None = None

    async def ask(
        self, question: Any = QUESTION, *, show: Any = "verified", **settings: Any
    ) -> Outcome:
        events: list[Any] = []
        messages = [HumanMessage(question)] if isinstance(question, str) else question
        run = self.cascade.kernel.begin(messages, settings)  # type: ignore[arg-type]
        return await self._drive(run, events, show)

    async def resume(self, said: object) -> Outcome:
        assert self._run is not None
        kept = json.loads(json.dumps(self._run.to_json()))
        return await self._drive(Run.from_json(kept, self._run.messages), [], "verified", said)

    async def _drive(self, run: Run, events: list[Any], show: Any, said: object = None) -> Outcome:
        self._run = run
        runtime = CascadeRuntime(
            self.cascade.kernel, events.append, show=show, streams=True, said=said
        )
        await self.cascade.kernel.answer(run, runtime)
        return Outcome(_result(self.cascade, run), run, events)


class Graph:
    """Runs as a LangGraph graph with a checkpointer in memory."""

    name = "langgraph"

    def __init__(self, cascade: Cascade, **compiled: Any) -> None:
        self.cascade = cascade
        self.graph = cascade.build_graph().compile(**{"checkpointer": InMemorySaver(), **compiled})
        self._thread = ""

    async def ask(
        self, question: Any = QUESTION, *, show: Any = "verified", **settings: Any
    ) -> Outcome:
        self._thread = uuid.uuid4().hex
        messages = [HumanMessage(question)] if isinstance(question, str) else question
        given: dict[str, Any] = {"messages": messages}
        if settings:
            given["settings"] = settings
        return await self._drive(given, show)

    async def resume(self, said: object) -> Outcome:
        return await self._drive(Command(resume=said), "verified")

    async def _drive(self, given: Any, show: Any) -> Outcome:
        config: Any = {"configurable": {"thread_id": self._thread, "show": show}}
        events: list[Any] = []
        state: Any = None
        modes: Any = ["custom", "values"]
        async for mode, value in self.graph.astream(given, config, stream_mode=modes):
            if mode == "custom":
                events.append(value)
            else:
                state = value
        run = Run.from_json(state["run"], state["messages"])
        return Outcome(_result(self.cascade, run), run, events)


def _result(cascade: Cascade, run: Run) -> CascadeResult | None:
    try:
        return cascade._result(run, None)
    except PersonNeededError:
        return None


DRIVERS: tuple[Callable[..., Any], ...] = (Loop, Graph)
