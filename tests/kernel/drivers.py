"""The two drivers of a run, told apart by nothing but their names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from cascade import Cascade, CascadeResult, Price, Run, Tier
from cascade.errors import PersonNeededError
from cascade.middleware import Retries
from cascade.run import CascadeRuntime
from cascade.testing import ScriptedModel, reply
from tests.acceptance.setups import shown

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
        return shown(self.events)

    @property
    def nodes(self) -> list[str]:
        """Nodes of the entries, in order."""
        return [entry.node for entry in self.run.entries]


class Driver:
    """Asks a cascade by one way."""

    name: str

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade

    async def ask(
        self, question: Any = QUESTION, *, show: Any = "verified", **settings: Any
    ) -> Outcome:
        messages = [HumanMessage(question)] if isinstance(question, str) else question
        return await self._begin(messages, settings, show)

    async def _begin(self, messages: list[Any], settings: dict[str, Any], show: str) -> Outcome:
        raise NotImplementedError

    async def resume(self, said: object) -> Outcome:
        raise NotImplementedError

    def _outcome(self, run: Run, events: list[Any]) -> Outcome:
        result = None
        with suppress(PersonNeededError):
            result = self.cascade._result(run, None)
        return Outcome(result, run, events)


class Loop(Driver):
    """Runs without LangGraph."""

    name = "loop"

    async def _begin(self, messages: list[Any], settings: dict[str, Any], show: Any) -> Outcome:
        return await self._drive(self.cascade.kernel.begin(messages, settings), show)

    async def resume(self, said: object) -> Outcome:
        kept = json.loads(json.dumps(self._run.to_json()))
        return await self._drive(Run.from_json(kept, self._run.messages), "verified", said)

    async def _drive(self, run: Run, show: Any, said: object = None) -> Outcome:
        self._run, events, kernel = run, list[Any](), self.cascade.kernel
        runtime = CascadeRuntime(kernel, events.append, show=show, streams=True, said=said)
        await kernel.answer(run, runtime)
        return self._outcome(run, events)


class Graph(Driver):
    """Runs as a LangGraph graph with a checkpointer in memory."""

    name = "langgraph"

    async def _begin(self, messages: list[Any], settings: dict[str, Any], show: Any) -> Outcome:
        self.graph = self.cascade.build_graph().compile(checkpointer=InMemorySaver())
        given = {"messages": messages, **({"settings": settings} if settings else {})}
        return await self._drive(given, show)

    async def resume(self, said: object) -> Outcome:
        return await self._drive(Command(resume=said), "verified")

    async def _drive(self, given: Any, show: Any) -> Outcome:
        config: Any = {"configurable": {"thread_id": "1", "show": show}}
        events, state, modes = list[Any](), None, ["custom", "values"]
        async for mode, value in self.graph.astream(given, config, stream_mode=modes):
            if mode == "custom":
                events.append(value)
            else:
                state = value
        return self._outcome(Run.from_json(state["run"], state["messages"]), events)


DRIVERS: tuple[type[Driver], ...] = (Loop, Graph)
