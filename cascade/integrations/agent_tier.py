"""An agent as a tier: its whole run is the draft, and each model call inside it a ledger entry.

    cascade = Cascade(small=AgentTier(cheap_agent), large=AgentTier(strong_agent))

An agent is a LangGraph graph, an agent of LangChain's, any Runnable with messages in and out, or a
coroutine function of messages.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Literal, cast, get_args
from uuid import UUID, uuid4

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    ToolMessage,
    messages_from_dict,
    messages_to_dict,
)
from langchain_core.outputs import LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import set_config_context
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import GraphRecursionError
from langgraph.pregel.protocol import PregelProtocol

from cascade._portal import on_portal, run_sync, running_loop
from cascade.calling import CompositeModel, send
from cascade.confidence.trajectory import message_steps
from cascade.errors import (
    CascadeError,
    ConfigurationError,
    MalformedResponseError,
    ModelTimeoutError,
    RealRequestForbiddenError,
    UnsupportedContentError,
    is_control_flow,
)
from cascade.integrations.chat_model import tracers_below
from cascade.kernel import InCopiedContext
from cascade.ledger.ledger import Attempt, Ledger
from cascade.ledger.prices import DatedPrice, Price, Pricing, find_pricing
from cascade.models import Model, Request
from cascade.models.base import guard
from cascade.models.failures import Caller
from cascade.questions import RISK
from cascade.run import Call, Run
from cascade.state import Completion, Usage
from cascade.tiers import ModelLike, OpenTier, open_tier

TakesOver = Literal["restart", "hand_over", "repair"]
"""What an agent sees of the run of the tier before it: nothing; what was done, as a text; or the
messages themselves, from which it goes on."""

UNFINISHED = "unfinished_agent"
"""Key of the run's notes: messages of an agent that failed, for the one that takes over."""

HANDED_OVER = (
    "Another agent has worked on this before. What it did is not verified, and may be wrong:\n\n"
)
TO_REPAIR = (
    "What was done above is not verified. Check it, correct what is wrong, and finish the task."
)


class AgentTier(CompositeModel):
    """An agent as the model of a tier.

    Each of its model calls is an entry of the ledger under the tier's node, priced by its model,
    and begun there before it is sent; calls that LangChain's callbacks do not report are one entry
    of unknown cost. Its tools are its own. A checkpointer of its own lets a run go on where it was
    interrupted by a crash.

    What an agent has written stays written. One whose tools write is therefore never simply
    repeated: it is made afresh for each attempt (`fresh`), or the next tier takes over from it, and
    neither audits, retries nor checks start it again.

    Args:
        agent: the agent; with `fresh`, a function that makes one for each attempt, or an
            asynchronous context manager that yields one, such as one with a folder of its own.
        name: of the model; a calibration is bound to it, so change it with the agent.
        fresh: whether `agent` makes agents.
        writes: whether its tools change anything; None: as its tools are marked (`risk` in their
            `metadata` or `extras`, see `ToolRisks`).
        takes_over: what it sees of the run of the tier before it.
        checker: the model that checks about its answers are put to (`p_true`, …); by default the
            agent itself, as another task.
        stop: takes the messages so far before each model call, and returns why to stop the run, or
            None to let it go on.
        max_steps: of a LangGraph graph (`recursion_limit`).
        prices: by model string (`provider:name`), where list prices do not know a model. A price of
            the tier, `Tier(AgentTier(…), price=…)`, holds for all of its calls, and lets its cost
            be foreseen.
        local: whether all its models are on this machine.

    Raises:
        ConfigurationError: it is no agent, or a value has no meaning.
    """

    provider = "agent"
    traces_itself = True
    real = False  # each of its calls is looked at

    def __init__(
        self,
        agent: Any,
        *,
        name: str = "agent",
        fresh: bool = False,
        writes: bool | None = None,
        takes_over: TakesOver = "restart",
        checker: ModelLike | None = None,
        stop: Callable[[Sequence[BaseMessage]], str | None] | None = None,
        max_steps: int | None = None,
        prices: Mapping[str, Price | DatedPrice] | None = None,
        local: bool = False,
    ) -> None:
        if not (callable(agent) if fresh else _is_agent(agent)):
            raise ConfigurationError(
                f"AgentTier({agent!r}): give a graph, an agent, a Runnable or a coroutine function "
                "of messages; with fresh=True, a function that makes one."
            )
        if takes_over not in get_args(TakesOver):
            there = ", ".join(get_args(TakesOver))
            raise ConfigurationError(f"AgentTier(takes_over={takes_over!r}): there are {there}.")
        self.model, self.local, self.takes_over = name, local, takes_over
        self.writes = _marked_as_writing(agent) if writes is None else writes
        self.repeatable = fresh or not self.writes
        self.checker = None if checker is None else open_tier(checker, name)
        self._agent, self._fresh, self._stop = agent, fresh, stop
        self._max_steps, self._prices = max_steps, dict(prices or {})
        self._caller = Caller(self.name, name)

    async def answer(self, call: Call, ledger: Ledger) -> Completion:
        """Run the agent.

        Raises:
            ConfigurationError: its tools write, and the cascade would run it, or the next tier,
                again on what it has left.
            ModelError: it failed.
        """
        if call.node == "self_check" and self.checker is not None:
            return await send(replace(call, tier=self.checker), ledger)
        self._check(call)
        run, request = call.run, call.request
        booking = _Booking(call, ledger, self._prices, self._stop)
        whole = Attempt(run.id, booking.node, call.tier, request.messages, tags=booking.tags)
        try:
            said, reason = await self._work(call, booking), None
        except _Stopped:
            said, reason = None, "stopped"
        except GraphRecursionError as error:
            if call.node != "draft":
                raise self._caller.malformed(f"it has used up its steps: {error}") from error
            said, reason = None, "length"
        except Exception as error:
            if is_control_flow(error):
                raise
            kept = messages_to_dict(_plain(booking.trajectory))
            run.notes[UNFINISHED] = cast("Any", kept)
            raise self._named(error, request) from error
        finally:
            await booking.close()
        run.notes.pop(UNFINISHED, None)
        trajectory = booking.trajectory if said is None else said
        completion = self._completion(trajectory, booking, reason)
        if not booking.calls:  # models that report nothing to callbacks
            async with ledger.attempt(whole):
                whole.completion = completion
        return completion

    async def _complete(self, request: Request) -> Completion:
        raise UnsupportedContentError(
            f"{self.name} is an agent: it is asked through a cascade, which books its calls.",
            model=self.name,
        )

    async def aclose(self) -> None:
        """Close the model of its checks."""
        if self.checker is not None:
            await self.checker.model.aclose()

    # --- what must not be

    def _check(self, call: Call) -> None:
        """Refuse, before anything is sent, what would run an agent on what another has written."""
        if call.request.tools:
            raise UnsupportedContentError(
                f"{self.name} has tools of its own: give those of the question to the agent.",
                model=self.name,
            )
        if self.repeatable:
            return
        kernel = call.runtime.kernel
        ways = (
            "make it afresh for each attempt, AgentTier(make_agent, fresh=True), or say "
            "writes=False of tools that only read"
        )
        if call.node == "self_check" or call.run.kind != "answer":
            raise UnsupportedContentError(
                f"{self.name} is not run again for {call.node!r}: its tools write. Give it a "
                f"checker=… for checks; {ways}.",
                model=self.name,
            )
        place = next((i for i, t in enumerate(kernel.tiers[:-1]) if t.model is self), None)
        if place is None:
            return
        above: Any = kernel.tiers[place + 1]
        if getattr(above.model, "takes_over", "restart") == "restart":
            raise ConfigurationError(
                f"the tools of {self.name} write, and {above.name} would begin the task again on "
                f"what they leave: let it take over, AgentTier(…, takes_over='hand_over'), {ways}."
            )
        checks = [s.name for s in kernel.parts.signals if s.calls and s.model is None]
        if self.checker is None and (checks or not kernel.parts.signals):
            raise ConfigurationError(
                f"the tools of {self.name} write, and {checks or ['p_true']} would run it again: "
                f"give it a checker=…, the cascade signals=[TrajectorySignal()]; {ways}."
            )

    # --- one run

    async def _work(self, call: Call, booking: _Booking) -> list[AnyMessage]:
        """The messages that the agent adds to the task.

        It runs in the background loop, where its clients keep their connections, and apart from the
        graph around it, by whose checkpoints a question might get another's answer.
        """
        sent = _with_ids(self._task(call), call.run)
        booking.known = {message.id or "" for message in sent}
        manager = tracers_below(call.runtime.config, booking)
        config = RunnableConfig(callbacks=manager, tags=["nostream"], configurable={})
        if self._max_steps is not None:
            config["recursion_limit"] = self._max_steps
        with set_config_context(config) as entered:
            context = entered.copy()

        async def run() -> Any:
            async with asyncio.timeout(call.request.timeout_s), self._made() as agent:
                return await self._asked(agent, sent, config, call)

        async def within() -> Any:
            return await InCopiedContext(run(), context)

        said = await on_portal(within())
        if isinstance(said, Mapping):
            if said.get("__interrupt__"):
                raise UnsupportedContentError(
                    f"{self.name} waits for a person in the midst of its run: interrupts belong "
                    "into the graph around the cascade.",
                    model=self.name,
                )
            said = said.get("messages", ())
        if isinstance(said, str):
            said = AIMessage(said)
        said = [said] if isinstance(said, BaseMessage) else list(said)
        added: list[Any] = [message for message in said if message.id not in booking.known]
        if not added:
            raise self._caller.malformed("it returned no message")
        return added

    @asynccontextmanager
    async def _made(self) -> AsyncIterator[Any]:
        made = self._agent() if self._fresh else self._agent
        if self._fresh and isinstance(made, AbstractAsyncContextManager):
            async with made as agent:
                yield agent
        else:
            yield await made if self._fresh and inspect.isawaitable(made) else made

    async def _asked(
        self, agent: Any, sent: list[AnyMessage], config: RunnableConfig, call: Call
    ) -> Any:
        if not hasattr(agent, "ainvoke"):
            return await agent(sent)
        if not isinstance(agent, PregelProtocol):
            return await agent.ainvoke(sent, config)
        asked: Any = {"messages": sent}
        if isinstance(getattr(agent, "checkpointer", None), BaseCheckpointSaver):
            answers = call.node in ("draft", "expert") and call.run.kind == "answer"
            thread = f"{call.run.id}-{call.tier.name}" if answers else str(uuid4())
            config["configurable"] = {"thread_id": thread}
            kept = await agent.aget_state(config)
            if kept.values and not kept.next:
                return kept.values  # it had ended when the process died
            asked = None if kept.next else asked
        return await agent.ainvoke(asked, config)

    def _task(self, call: Call) -> list[AnyMessage]:
        """The task, with what the tier before has done, as far as this one is to see it."""
        messages: list[Any] = list(call.request.messages)
        kept: Any = call.run.notes.get(UNFINISHED)
        draft = call.run.draft
        if self.takes_over == "restart" or not (kept or draft) or call.run.kind != "answer":
            return messages
        before: Any = messages_from_dict(kept) if kept else draft and draft.trajectory
        done: list[Any] = _closed(before)
        if self.takes_over == "repair" or not done:
            return [*messages, *done, *([HumanMessage(TO_REPAIR)] if done else ())]
        lines = [f"{step.action} → {step.observation}" if step.observation else step.action
                 for step in message_steps(done)]  # fmt: skip
        return [*messages, HumanMessage(HANDED_OVER + "\n".join(lines))]

    def _completion(
        self, trajectory: Sequence[AnyMessage], booking: _Booking, reason: str | None
    ) -> Completion:
        last = trajectory[-1] if trajectory and reason is None else None
        calls = tuple(last.tool_calls) if isinstance(last, AIMessage) else ()
        usage = booking.usage
        if not booking.calls and isinstance(last, AIMessage):
            usage = usage_of_message(last)
        return Completion(
            text="" if last is None else str(last.text),
            model=booking.model or self.name,
            usage=usage,
            tool_calls=calls,
            finish_reason=reason or ("tool_calls" if calls else "stop"),
            trajectory=tuple(_plain(trajectory)),
        )

    def _named(self, error: Exception, request: Request) -> CascadeError:
        """A failure as the cascade knows it: another tier may do better, and nothing is repeated
        that has written."""
        if isinstance(error, TimeoutError):
            limit = f"{request.timeout_s} s" if request.timeout_s else "its time"
            said = f"{self.name} did not come to an end within {limit}."
            error = ModelTimeoutError(said, model=self.name, billed=None)
        named = error if isinstance(error, CascadeError) else self._caller.failed(error)
        if named is None:
            said = f"{self.name} failed with {type(error).__name__}: {error}"
            named = MalformedResponseError(said, model=self.name, billed=None)
        if not self.repeatable:
            named.retryable = False  # type: ignore[attr-defined]
        return named


# --- booking


class _Stopped(BaseException):
    """The run was stopped; no `except Exception` of an agent takes it for a failure."""


class _InnerModel(Model):
    """Name of a model inside an agent."""

    def __init__(self, provider: str, model: str, *, local: bool) -> None:
        self.provider, self.model, self.local = provider, model, local

    async def _complete(self, request: Request) -> Completion:
        raise NotImplementedError


class _Booking(BaseCallbackHandler):
    """Books each model call inside an agent's run: begun before it is sent, ended once."""

    raise_error = True  # else LangChain logs what fails here, and sends the call unbooked
    on_chat_model_start: Any = property(lambda self: _edge(self._begun))
    on_llm_end: Any = property(lambda self: _edge(self._ended))
    on_llm_error: Any = property(lambda self: _edge(self._failed))

    def __init__(
        self,
        call: Call,
        ledger: Ledger,
        prices: Mapping[str, Price | DatedPrice],
        stop: Callable[[Sequence[BaseMessage]], str | None] | None,
    ) -> None:
        self.node = call.node if call.run.kind != "shadow" else "shadow"
        self.tags = call.run.settings.get("tags") or {}
        self.calls, self.model = 0, ""
        self.known: set[str] = set()
        self.trajectory: list[AnyMessage] = []
        self._call, self._ledger, self._prices, self._stop = call, ledger, prices, stop
        self._open: dict[UUID, tuple[AbstractAsyncContextManager[Attempt], Attempt]] = {}
        self._usages: list[Usage] = []

    @property
    def usage(self) -> Usage:
        """The sum over all calls; unknown where it is of one."""
        fields: dict[str, int] = {}
        for name in ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"):
            counts = [getattr(usage, name) for usage in self._usages]
            if counts and len(counts) == self.calls and None not in counts:
                fields[name] = sum(counts)
        return Usage(**fields)

    async def _begun(
        self,
        serialized: Any,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if guard.forbidden and "fake" not in str(serialized).lower():
            raise RealRequestForbiddenError(
                f"a request of {self._call.tier.model.name} was stopped: real model requests are "
                "forbidden here."
            )
        (sent,) = messages
        new: list[Any] = [m for m in sent if m.id not in self.known and m.type != "system"]
        self.trajectory = new
        reason = self._stop(new) if self._stop is not None and new else None
        if reason is not None:
            self._call.run.stopped = reason
            raise _Stopped
        tier, run = self._tier(metadata or {}), self._call.run
        attempt = Attempt(run.id, self.node, tier, sent, tags=self.tags)
        held = self._ledger.attempt(attempt)
        await held.__aenter__()
        self.calls += 1
        self._open[run_id] = held, attempt

    async def _ended(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        held, attempt = self._open.pop(run_id, (None, None))
        if held is None or attempt is None:
            return
        message: Any = getattr(response.generations[0][0], "message", None) or AIMessage("")
        usage = usage_of_message(message)
        self._usages.append(usage)
        self.model = str(message.response_metadata.get("model_name") or attempt.tier.model.name)
        self.trajectory = [*self.trajectory, message]
        attempt.completion = Completion(
            text=str(message.text),
            model=self.model,
            usage=usage,
            tool_calls=tuple(message.tool_calls),
            # What LangChain's cache writes into each answer that is taken from it.
            cached=dict(message.usage_metadata or ()).get("total_cost") == 0,
        )
        await held.__aexit__(None, None, None)

    async def _failed(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        held, attempt = self._open.pop(run_id, (None, None))
        if held is not None and attempt is not None:
            caller = Caller(attempt.tier.model.name, "its server")
            named = caller.failed(error) if isinstance(error, Exception) else None
            failure = named or error
            await held.__aexit__(type(failure), failure, None)

    async def close(self) -> None:
        """End what was cancelled between its start and its end."""
        while self._open:
            with suppress(KeyError):  # it has ended meanwhile
                held, _ = self._open.popitem()[1]
                gone = asyncio.CancelledError()
                await held.__aexit__(type(gone), gone, None)

    def _tier(self, metadata: Mapping[str, Any]) -> OpenTier:
        """The tier of a call, with the model that really answers and its price."""
        outer = self._call.tier
        named = (
            str(metadata.get(f"ls_{kind}") or "unknown") for kind in ("provider", "model_name")
        )
        model = _InnerModel(*named, local=outer.local)
        pricing: Pricing | None = self._prices.get(model.name)
        if outer.settings.price is not None:
            pricing = outer.pricing
        elif pricing is None:
            pricing = find_pricing(model.provider, model.model, local=outer.local)
        return replace(outer, model=model, pricing=pricing)


def _edge(work: Callable[..., Any]) -> Callable[..., Any]:
    """A method for LangChain's callbacks, which await it where the model call is asynchronous. Of a
    synchronous call in a thread it is waited for here: LangChain would swallow what it raises."""
    if running_loop() is not None:
        return work
    return lambda *given, **named: run_sync(work(*given, **named))


def usage_of_message(message: AIMessage) -> Usage:
    """The usage that a message reports."""
    told: Any = message.usage_metadata or {}
    inputs, outputs = told.get("input_token_details", {}), told.get("output_token_details", {})
    return Usage(
        input_tokens=told.get("input_tokens"),
        output_tokens=told.get("output_tokens"),
        cached_tokens=inputs.get("cache_read"),
        cache_write_tokens=inputs.get("cache_creation"),
        reasoning_tokens=outputs.get("reasoning"),
    )


# --- agents and messages


def _is_agent(agent: Any) -> bool:
    call = getattr(agent, "__call__", None)  # noqa: B004 - whose kind is asked
    coroutine = inspect.iscoroutinefunction(agent) or inspect.iscoroutinefunction(call)
    return hasattr(agent, "ainvoke") or coroutine


def _marked_as_writing(agent: Any) -> bool:
    """Whether a tool in the nodes of a graph is marked `write` or `irreversible`."""
    nodes: Mapping[str, Any] = getattr(agent, "nodes", None) or {}
    for node in nodes.values():
        tools: Mapping[str, Any] = getattr(getattr(node, "bound", None), "tools_by_name", {})
        for tool in tools.values():
            for place in (tool.metadata, tool.extras):
                if (place or {}).get(RISK) in ("write", "irreversible"):
                    return True
    return False


def _with_ids(messages: Sequence[AnyMessage], run: Run) -> list[AnyMessage]:
    """Messages that can be told from those which the agent adds; the same ones after a crash."""
    return [
        message if message.id else message.model_copy(update={"id": f"{run.id}-{number}"})
        for number, message in enumerate(messages)
    ]


def _plain(messages: Sequence[AnyMessage]) -> list[AnyMessage]:
    """Messages as JSON can hold them: artifacts of tools may be anything."""
    return [
        m.model_copy(update={"artifact": None}) if isinstance(m, ToolMessage) else m
        for m in messages
    ]


def _closed(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Messages in which each call has a result: providers refuse others."""
    results = {m.tool_call_id for m in messages if isinstance(m, ToolMessage)}
    closed: list[BaseMessage] = []
    for message in messages:
        closed.append(message)
        for call in message.tool_calls if isinstance(message, AIMessage) else ():
            if call["id"] not in results:
                lost = "Interrupted: whether it was carried out is not known."
                closed.append(ToolMessage(lost, tool_call_id=call["id"] or "", status="error"))
    return closed
