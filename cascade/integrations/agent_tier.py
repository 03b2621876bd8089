"""An agent as a tier: its whole run is the draft, and each model call inside it a ledger entry."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import replace
from functools import reduce
from types import SimpleNamespace
from typing import Any, Literal, cast, get_args
from uuid import UUID, uuid4

from langchain_core import messages as lc
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.ai import add_usage
from langchain_core.outputs import LLMResult
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import set_config_context
from langchain_core.runnables.utils import is_async_callable
from langchain_core.tools import BaseTool
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import GraphRecursionError
from langgraph.pregel.protocol import PregelProtocol

from cascade._portal import on_portal, running_loop, synchronous
from cascade.calling import CompositeModel
from cascade.confidence.signals import PTrueSignal, narrated
from cascade.errors import CascadeError, ConfigurationError, MalformedResponseError, ModelError
from cascade.errors import UnsupportedContentError as Unsupported
from cascade.integrations.langchain import SignalVerifier, looking_on
from cascade.kernel import InCopiedContext
from cascade.ledger.ledger import Attempt, Ledger
from cascade.ledger.outlook import PricedTier
from cascade.ledger.prices import Price, find_pricing
from cascade.middleware import Fallback
from cascade.middleware.audits import AfterReply
from cascade.models import Request
from cascade.models.http import Caller
from cascade.models.langchain import QUIET, completion_of
from cascade.questions import RISK
from cascade.run import Call, Parts
from cascade.state import Completion

TakesOver = Literal["restart", "hand_over", "repair"]
"""View of an agent on the run of the tier before it: nothing; what was done, as a text; or the
messages themselves, from which it goes on."""

Stop = Callable[[Sequence[BaseMessage], Sequence[BaseMessage]], str | None]
"""Takes the task and the run of a draft before each model call, and returns why to give it up, or
None to let it go on; `cascade.evaluation.trajectories.EarlyStop` is one."""

UNFINISHED = "unfinished_agent"  # note of a run: messages of an agent that failed, for the next

_HANDED_OVER = "Another agent has worked on this. What it did is not verified, and may be wrong:"
_TO_REPAIR = "What was done above is not verified. Check it, correct what is wrong, and finish it."
_LOST = "Interrupted: whether it was carried out is not known."
_UNHEARD = "would not follow {}={!r}: give it to the agent's models"
_WAYS = "make it afresh for each attempt (fresh=True), or say writes=False of tools that only read"


class AgentTier(CompositeModel):
    """An agent as the model of a tier.

    Each of its model calls is an entry of the ledger, priced by its model; calls that LangChain's
    callbacks do not report are one entry. What its tools write is never written twice. A call of an
    irreversible tool ends the run, and is among the `tool_calls` of the answer, for the app.

    Args:
        agent: a graph, an agent, a Runnable or a coroutine function of messages, whose models have
            `max_retries=0`, since what a client sends again by itself is not reported; with
            `fresh`, a function that makes one, or an asynchronous context manager of one.
        name: of the model; a calibration is bound to it, so change it with the agent.
        writes: whether its tools change anything; None: as they are marked (see `ToolRisks`).
        irreversible: names of irreversible tools, beside those that are marked.
        takes_over, stop: see `TakesOver`, `Stop`.
        prices: by model string, where list prices do not know a model and the tier has no price.

    Raises:
        ConfigurationError: it is no agent, or a value has no meaning; and from `Cascade`, where an
            agent would be run again on what it, or another, has written.
    """

    provider = "agent"

    def __init__(
        self,
        agent: Any,
        *,
        name: str = "agent",
        fresh: bool = False,
        writes: bool | None = None,
        irreversible: Collection[str] = (),
        takes_over: TakesOver = "restart",
        stop: Stop | None = None,
        prices: Mapping[str, Price] | None = None,
    ) -> None:
        runs, ways = isinstance(agent, Runnable) or is_async_callable(agent), get_args(TakesOver)
        fits = callable(agent) and not runs if fresh else runs
        # The letters of a text would be names.
        known = takes_over in ways and not isinstance(irreversible, str)
        if not (fits and known and all(isinstance(p, Price) for p in (prices or {}).values())):
            raise ConfigurationError(
                f"AgentTier({agent!r}, fresh={fresh}, irreversible={irreversible!r}, "
                f"takes_over={takes_over!r}, prices={prices!r}): give a compiled graph, an agent, "
                "a Runnable or a coroutine function of messages (of a cascade its `graph`), with "
                "fresh=True a function that makes one; a list of names; one of "
                f"{', '.join(ways)}; and a Price for each model."
            )
        marked = {risk for _, risk in risks_of(agent)} & {"write", "irreversible"}
        self.writes = bool(marked or irreversible) if writes is None else writes
        self.repeatable = fresh or not self.writes
        self.agent: Any = agent
        self.model, self.fresh, self.stop, self.takes_over = name, fresh, stop, takes_over
        self.irreversible, self.prices = frozenset(irreversible), dict(prices or {})

    def check(self, parts: Parts) -> None:
        """Refuse a temperature that the agent would not follow, and a cascade that would run it on
        what it, or another, has written; by a `ConfigurationError` with the ways out."""
        stand_ins = {one.name: one.tier for one in parts.middleware if isinstance(one, Fallback)}
        # In the order in which they are asked: the innermost stand-in first.
        tiers = [*parts.tiers, *(stand_ins[name] for name in sorted(stand_ins, reverse=True))]
        place, last = [tier.model for tier in tiers].index(self), len(parts.tiers) - 1
        if (temperature := tiers[place].settings.temperature) is not None:
            raise ConfigurationError(f"{self.name} {_UNHEARD.format('temperature', temperature)}.")
        later = tiers[place + 1 :]
        again = [t.name for t in later if getattr(t.model, "takes_over", "restart") == "restart"]
        second = "shadow" if place < last else "audit" if place == last else ""
        after = [one for one in parts.middleware if isinstance(one, AfterReply)]
        again += [one.name for one in after if one.kind == second]
        if place < last:
            again += [s.name for s in parts.signals if s.calls and s.model is None]
            again += [] if parts.signals or parts.judge else ["p_true"]
        if again and not self.repeatable:
            raise ConfigurationError(
                f"the tools of {self.name} write, and {' and '.join(again)} would run the task "
                "again: leave that out, let larger tiers take over (takes_over='hand_over'), take "
                "signals that are free (signals=['trajectory']) or have a model of their own "
                f"(signal.model = …), or {_WAYS}."
            )

    async def answer(self, call: Call, attempt: Attempt, ledger: Ledger) -> Completion:
        """Run the agent.

        Raises:
            ModelError: it failed; an `UnsupportedContentError` where the question has what belongs
                to the agent's models, or wants a second run of an agent whose tools write.
        """
        if call.request.tools:
            raise self.error("has tools of its own: give those of the question to the agent")
        # Those of a self-check are the cascade's, and no promise to a user.
        for option in () if call.node == "self_check" else ("temperature", "seed", "stop"):
            if (value := getattr(call.request, option)) not in (None, ()):
                raise self.error(_UNHEARD.format(option, value))
        if not self.repeatable and (call.node == "self_check" or call.run.kind != "answer"):
            raise self.error(f"is not run again for {call.node!r}: its tools write; {_WAYS}")
        run = _AgentRun(self, call, attempt, ledger)
        outcome: Completion | BaseException
        try:
            outcome = await run.completion()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - raised once booked
            outcome = self._failed(error, run)
        finally:  # what was cancelled between its start and its end
            await run.close(asyncio.CancelledError(), *run.open)
        # Of models that report nothing to callbacks, the whole is one call.
        async with nullcontext() if run.booked else ledger.attempt(attempt):
            if isinstance(outcome, BaseException):
                raise outcome
            attempt.completion = outcome
        return outcome

    async def _complete(self, request: Request) -> Completion:
        raise self.error("is an agent: it is asked through a cascade, which books its calls")

    def error(self, why: str, kind: type[ModelError] = Unsupported) -> ModelError:
        """The error for what the agent cannot do."""
        return kind(f"{self.name} {why}.", model=self.name, billed=None)

    def _failed(self, error: BaseException, run: _AgentRun) -> BaseException:
        """The error under its name. One that may have written something is not to be retried, and
        what was done is kept for the next tier."""
        if not isinstance(error, Exception):
            return error
        late = isinstance(error, TimeoutError) and run.limit is not None and run.limit.expired()
        failed = self._failure(error, run.call.request, late=late)
        if not isinstance(failed, CascadeError):
            caller = Caller(self.name, self.model, {MalformedResponseError: ""})
            # What no model call has failed with is of a tool, or of the agent itself.
            near = (error, error.__cause__, error.__context__)
            own = run.booked and not any(one is each for one in run.failures for each in near)
            named = None if own else caller.failed(error)
            why = f"failed with {type(error).__name__}"
            failed = named or caller.error(MalformedResponseError, str(error), why)
            failed.__cause__ = error
        if isinstance(failed, ModelError):
            failed.retryable = failed.retryable and self.repeatable
            if not failed.retryable:
                done: Any = lc.messages_to_dict([_plain(message) for message in run.trajectory])
                run.call.run.notes[UNFINISHED] = done
        return failed


class AgentVerifier(PTrueSignal, SignalVerifier):
    """An agent as the verifier of a cascade, with the options of `AgentTier`. It reads conversation
    and run, and replies True or False; the policy decides by the word, or by its log-probs."""

    def __init__(self, agent: Any, **options: Any) -> None:
        self.model = AgentTier(agent, **{"name": "verifier", **options})


def recorded_agent(name: str) -> AgentTier:
    """An agent of which there are recorded runs alone, for their calibration."""

    async def answer(messages: object) -> None:
        raise ConfigurationError(f"agent:{name} is only recorded: give an AgentTier(…).")

    return AgentTier(answer, name=name)


class _Stopped(BaseException):
    """Ends a run that is given up, with the reason, or before an irreversible call; no `except
    Exception` of an agent takes it for a failure."""


class _AgentRun(BaseCallbackHandler):
    """One run of an agent: whether any model call was `booked`, those that are `open`, the
    `failures`, and the `trajectory`, the messages that the agent has added to the task so far."""

    raise_error = True  # else LangChain logs what fails here, and sends the call unbooked
    run_inline = True
    on_chat_model_start: Any = property(lambda self: _edge(self._begin))
    on_llm_start: Any = property(lambda self: _edge(self._begin))
    on_llm_end: Any = property(lambda self: _edge(self._end))
    on_llm_error: Any = property(lambda self: _edge(self._fail))

    def __init__(self, tier: AgentTier, call: Call, whole: Attempt, ledger: Ledger) -> None:
        self.booked, self.trajectory = False, list[Any]()
        self.failures = list[BaseException]()
        self.limit: asyncio.Timeout | None = None
        self.call, self._tier, self._whole, self._ledger = call, tier, whole, ledger
        self._irreversible = set(tier.irreversible)
        self.open: dict[UUID, tuple[AbstractAsyncContextManager[Attempt], Attempt]] = {}
        run, kept = call.run, cast("Any", call.run.notes.get(UNFINISHED))
        task: list[Any] = list(call.request.messages)
        before = lc.messages_from_dict(kept) if kept else run.draft.trajectory if run.draft else ()
        done = list[Any](before) if run.kind == "answer" else []
        answered = {m.tool_call_id for m in done if isinstance(m, ToolMessage)}
        calls = [c["id"] or "" for m in done if isinstance(m, AIMessage) for c in m.tool_calls]
        lost = [name for name in calls if name not in answered]  # providers refuse such calls
        done += [ToolMessage(_LOST, tool_call_id=name, status="error") for name in lost]
        if done and tier.takes_over == "hand_over":
            task.append(HumanMessage(f"{_HANDED_OVER}\n\n{narrated(done)}"))
        elif done and tier.takes_over == "repair":
            task += [*done, HumanMessage(_TO_REPAIR)]
        self._task = [  # known from those which the agent adds, and the same ones after a crash
            m if m.id else m.model_copy(update={"id": f"{run.id}-{number}"})
            for number, m in enumerate(task)
        ]

    async def completion(self) -> Completion:
        """What the run comes to: its last message, with the tokens of all of them."""
        run, name, given_up = self.call.run, self._tier.name, False
        try:
            self.trajectory = await self._messages()
        except _Stopped as stopped:
            given_up = bool(stopped.args)
            run.stopped = str(stopped) or run.stopped
        run.notes.pop(UNFINISHED, None)
        last = AIMessage("") if given_up or not self.trajectory else self.trajectory[-1]
        # The result of a tool may be the answer.
        said = last if isinstance(last, AIMessage) else AIMessage(str(last.text))
        written = said.usage_metadata["output_tokens"] if said.usage_metadata else 0
        cut = self.call.node != "self_check" and written > (self.call.request.max_tokens or written)
        steps = [message for message in self.trajectory if isinstance(message, AIMessage)]
        usages = [step.usage_metadata for step in steps]  # the sum is unknown where one is
        total = reduce(add_usage, usages, None) if all(usages) else None
        told = completion_of(said.model_copy(update={"usage_metadata": total}), name)
        calls = [each for step in steps for each in completion_of(step, name).call_logprobs or ()]
        end = "stopped" if given_up else "length" if cut else told.finish_reason or "stop"
        path = tuple(map(_plain, self.trajectory))
        return replace(told, call_logprobs=tuple(calls) or None, finish_reason=end, trajectory=path)

    async def _messages(self) -> list[Any]:
        """The messages that the agent adds to the task; apart from the graph around it, by whose
        checkpoints a question might get another's answer, in the background or its saver's loop."""
        callbacks = looking_on((self.call.runtime.config or {}).get("callbacks"), self)
        config = RunnableConfig({**QUIET, "callbacks": callbacks, "configurable": {}})
        home = getattr(getattr(self._tier.agent, "checkpointer", None), "loop", None)
        with set_config_context(config) as apart:
            asked = self._asked(config)
            work = asked if home is running_loop() else on_portal(asked)
            said = await InCopiedContext(work, apart)
        state = said if isinstance(said, Mapping) else {"messages": said}
        if state.get("__interrupt__"):
            way = "interrupts belong into the graph around the cascade"
            raise self._tier.error(f"waits for a person in the midst of its run: {way}")
        told = state.get("messages", ())
        told = [("ai", told)] if isinstance(told, str) else told
        with suppress(TypeError, ValueError, NotImplementedError):
            told = lc.convert_to_messages([told] if isinstance(told, BaseMessage) else told)
            if added := self._added(told):
                return added
        what = f"keys {sorted(said)}" if isinstance(said, Mapping) else type(said).__name__
        way = "return messages, a text, or {'messages': [...]}"
        told = f"returned no message of its own, but {what}: {way}"
        raise self._tier.error(told, MalformedResponseError)

    async def _asked(self, config: RunnableConfig) -> Any:
        tier, call, node = self._tier, self.call, self._whole.node
        made: Any = tier.agent() if tier.fresh else tier.agent
        enters = isinstance(made, AbstractAsyncContextManager)
        self.limit = limit = asyncio.timeout(call.request.timeout_s)
        async with limit, made if enters else nullcontext(made) as given:
            agent: Any = given if isinstance(given, Runnable) else RunnableLambda(given)
            self._irreversible |= {n for n, risk in risks_of(agent) if risk == "irreversible"}
            # A graph, or what stands around one, takes its state.
            kinds = getattr(agent.InputType, "__mro__", ())
            state = any("messages" in getattr(kind, "__annotations__", ()) for kind in kinds)
            state = state or isinstance(given, PregelProtocol)
            asked: Any = {"messages": self._task} if state else self._task
            saver = getattr(agent, "checkpointer", None)
            kept = isinstance(saver, BaseCheckpointSaver) and node in ("draft", "expert")
            # A thread of its own, also where something stands around a graph with a checkpointer.
            thread = f"{call.run.id}-{call.tier.name}" if kept else str(uuid4())
            config["configurable"] = {"thread_id": thread}
            if kept and (before := (await agent.aget_state(config)).values):
                self.booked, asked = True, None
                self.trajectory = self._added(before.get("messages", ()))
            # Written before the next step, else a killed process pays for the last one again.
            how: Any = {"durability": "sync"} if kept else {}
            try:
                return await agent.ainvoke(asked, config, **how)
            except GraphRecursionError as error:
                way = "has used up its steps: with_config(recursion_limit=…) gives it more"
                used_up = tier.error(way, MalformedResponseError)
                used_up.retryable = False
                raise (_Stopped(str(used_up)) if node == "draft" else used_up) from error

    def _added(self, messages: Sequence[Any]) -> list[Any]:
        known = {message.id for message in self._task}
        return [message for message in messages if message.id not in known]

    # --- booking

    async def _begin(
        self, serialized: Any, batch: Sequence[Any], *, run_id: UUID, metadata: Any = None, **_: Any
    ) -> None:
        if "fake" not in str(serialized).lower():
            self._tier.check_allowed()
        sent = [HumanMessage(batch[0])] if isinstance(batch[0], str) else batch[0]
        self.trajectory = [m for m in self._added(sent) if m.type != "system"]
        tier, whole, about = self.call.tier, self._whole, metadata or {}
        stop = self._tier.stop if self.call.node == "draft" and self.trajectory else None
        if stop is not None and (reason := stop(self._task, self.trajectory)) is not None:
            raise _Stopped(reason)
        names = [about.get(key) or "unknown" for key in ("ls_provider", "ls_model_name")]
        name, given = ":".join(names), tier.settings.price or self._tier.prices
        own = given.get(name) if isinstance(given, Mapping) else given
        pricing = own or find_pricing(*names, local=tier.local)
        asks = PricedTier(tier.name, SimpleNamespace(name=name, server=None), pricing, None)
        attempt = Attempt(whole.run_id, whole.node, asks, sent, tags=whole.tags)
        attempt.continued = len(self._task) > len(self.call.request.messages)
        held = self._ledger.attempt(attempt)
        await held.__aenter__()
        self.booked, self.open[run_id] = True, (held, attempt)

    async def _end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        if run_id not in self.open:  # closed meanwhile
            return
        attempt, first = self.open[run_id][1], response.generations[0][0]
        message = getattr(first, "message", None) or AIMessage(first.text)
        attempt.completion = completion_of(message, attempt.tier.model.name)
        self.trajectory = [*self.trajectory, message]
        await self.close(None, run_id)
        if self._irreversible & set(attempt.completion.called):
            raise _Stopped

    async def _fail(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self.failures.append(error)
        named = isinstance(error, Exception) and Caller(self._tier.name, "its server").failed(error)
        await self.close(named or error, run_id)

    async def close(self, error: BaseException | None, *run_ids: UUID) -> None:
        """End model calls that are under way."""
        for run_id in run_ids:
            held, _ = self.open.pop(run_id, (nullcontext(), None))
            await held.__aexit__(type(error) if error else None, error, None)

    def on_tool_start(self, serialized: Any, input_str: str, **more: Any) -> None:
        """End the run before an irreversible tool that no model has asked for."""
        marked = (more.get("metadata") or {}).get(RISK) == "irreversible"
        if marked or (serialized or {}).get("name") in self._irreversible:
            raise _Stopped


def _edge(work: Callable[..., Any]) -> Callable[..., Any]:
    """A method for LangChain's callbacks, which await it where the model call is asynchronous. Of a
    synchronous call in a thread it is waited for here: LangChain would swallow what it raises."""
    return work if running_loop() is not None else synchronous(work)


def risks_of(agent: Any) -> set[tuple[str, str]]:
    """Names of an agent's tools with their marks: in graphs, around them, and in what functions
    refer to, but for other functions, which would lead everywhere."""
    seen, waiting = dict[int, Any](), [agent]
    while waiting:
        part, held = waiting.pop(), list[Any]()
        if id(part) in seen:
            continue
        seen[id(part)] = part
        if isinstance(part, PregelProtocol):
            waiting += [node.bound for node in getattr(part, "nodes", {}).values()]
        elif isinstance(part, Runnable):
            waiting += getattr(part, "__dict__", {}).values()
        elif isinstance(part, Mapping | list | tuple):
            held += part.values() if isinstance(part, Mapping) else part
        elif callable(part) and not inspect.isclass(part):
            function: Any = part if inspect.isroutine(part) else part.__call__
            own = getattr(function, "__self__", None)
            held += [own, *getattr(own, "__dict__", {}).values()]
            with suppress(TypeError, ValueError):  # no Python, or a variable that has no value yet
                named = inspect.getclosurevars(inspect.unwrap(function))
                held += [*named.nonlocals.values(), *named.globals.values()]
        waiting += [each for each in held if isinstance(each, Runnable | Mapping | list | tuple)]
    tools = [part for part in seen.values() if isinstance(part, BaseTool)]
    places = [(tool.name, place or {}) for tool in tools for place in (tool.metadata, tool.extras)]
    return {(name, place[RISK]) for name, place in places if RISK in place}


def _plain(message: Any) -> Any:
    """A message as a checkpoint can hold it: artifacts of tools may be anything, and the features
    of log-probabilities are taken."""
    told = {k: v for k, v in message.response_metadata.items() if k != "logprobs"}
    bare = {"artifact": None} if isinstance(message, ToolMessage) else {}
    return message.model_copy(update={"response_metadata": told, **bare})
