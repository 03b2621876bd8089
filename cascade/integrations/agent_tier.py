"""An agent as a tier: its whole run is the draft, and each model call inside it a ledger entry.

    cascade = Cascade(small=AgentTier(cheap_agent), large=AgentTier(strong_agent))

An agent is a LangGraph graph, an agent of LangChain's, any Runnable with messages in and out, or a
coroutine function of messages.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Literal, cast, get_args
from uuid import UUID, uuid4

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    ToolMessage,
    convert_to_messages,
    messages_from_dict,
    messages_to_dict,
)
from langchain_core.outputs import LLMResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import set_config_context
from langchain_core.tools import BaseTool
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import GraphRecursionError
from langgraph.pregel.protocol import PregelProtocol

from cascade._portal import on_portal, run_sync, running_loop
from cascade.calling import CompositeModel
from cascade.confidence.checks import check_messages, p_true
from cascade.confidence.trajectory import narrated
from cascade.errors import (
    CascadeError,
    ConfigurationError,
    MalformedResponseError,
    ModelTimeoutError,
    RealRequestForbiddenError,
    UnsupportedContentError,
    is_control_flow,
)
from cascade.integrations.chat_model import looking_on
from cascade.integrations.decisions import AskedVerifier
from cascade.kernel import InCopiedContext
from cascade.ledger.ledger import Attempt, Ledger
from cascade.ledger.prices import Price, find_pricing
from cascade.middleware import Fallback
from cascade.middleware.comparing import AfterReply
from cascade.models import Request
from cascade.models.base import guard
from cascade.models.failures import Caller
from cascade.models.langchain import QUIET, completion_of
from cascade.questions import RISK
from cascade.run import Call, Parts, Run
from cascade.state import Completion, Usage
from cascade.tiers import OpenTier, open_tier

TakesOver = Literal["restart", "hand_over", "repair"]
"""View of an agent on the run of the tier before it: nothing; what was done, as a text; or the
messages themselves, from which it goes on."""

Stop = Callable[[Sequence[BaseMessage], Sequence[BaseMessage]], str | None]
"""Takes the task and the run so far, and returns why to stop the run, or None to let it go on;
`cascade.evaluation.trajectories.EarlyStop` is one."""

UNFINISHED = "unfinished_agent"
"""Key of the run's notes: messages of an agent that failed, for the one that takes over."""

HANDED_OVER = (
    "Another agent has worked on this before. What it did is not verified, and may be wrong:\n\n"
)
TO_REPAIR = (
    "What was done above is not verified. Check it, correct what is wrong, and finish the task."
)
PROBES = ("self_check", "verify")
"""Nodes whose requests have settings of the cascade's, which are no promise to a user."""

_WAYS = (
    "make it afresh for each attempt, AgentTier(make_agent, fresh=True), or say writes=False of "
    "tools that only read"
)


class AgentTier(CompositeModel):
    """An agent as the model of a tier.

    Each of its model calls is an entry of the ledger under the tier's node, priced by its model;
    calls that LangChain's callbacks do not report are one entry of unknown cost. Give its models
    `max_retries=0`, since what a client sends again by itself is not reported. An answer of more
    than `max_tokens` counts as cut off. A run with a checkpointer goes on after a crash.

    An agent whose tools write is never simply repeated: it is made afresh for each attempt, or the
    next tier takes over. A call of an irreversible tool is not carried out: it ends the run and is
    the draft; the answer that is accepted has it among its `tool_calls`, for the app to carry out.

    Args:
        agent: the agent; with `fresh`, a function that makes one for each attempt, or an
            asynchronous context manager that yields one, such as one with a folder of its own.
        name: of the model; a calibration is bound to it, so change it with the agent.
        writes: whether its tools change anything; None: as its tools are marked (`risk` in their
            `metadata` or `extras`, see `ToolRisks`).
        irreversible: names of irreversible tools, beside those that are marked.
        takes_over: what it sees of the run of the tier before it.
        stop: is asked before each model call of a draft whether to give it up.
        prices: by model string (`provider:name`), where list prices do not know a model. A price of
            the tier, `Tier(AgentTier(…), price=…)`, holds for all of its calls instead.
        local: whether all its models are on this machine.

    Raises:
        ConfigurationError: it is no agent, or a value has no meaning; and from `Cascade`, where an
            agent would be run again on what it, or another, has written.
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
        irreversible: Collection[str] = (),
        takes_over: TakesOver = "restart",
        stop: Stop | None = None,
        prices: Mapping[str, Price] | None = None,
        local: bool = False,
    ) -> None:
        call = getattr(agent, "__call__", None)  # noqa: B004 - whose kind is asked
        coroutine = inspect.iscoroutinefunction(agent) or inspect.iscoroutinefunction(call)
        if not (callable(agent) if fresh else isinstance(agent, Runnable) or coroutine):
            raise ConfigurationError(
                f"AgentTier({agent!r}): give a compiled graph, an agent, a Runnable or a coroutine "
                "function of messages; with fresh=True, a function that makes one. A cascade is "
                "one by its `graph`."
            )
        if isinstance(irreversible, str):  # whose letters would be names
            raise ConfigurationError(f"AgentTier(irreversible={irreversible!r}): give a list.")
        if takes_over not in get_args(TakesOver):
            there = ", ".join(get_args(TakesOver))
            raise ConfigurationError(f"AgentTier(takes_over={takes_over!r}): there are {there}.")
        self.prices = dict(prices or {})
        if not all(isinstance(price, Price) for price in self.prices.values()):
            raise ConfigurationError(
                f"AgentTier(prices={prices!r}): there is no Price(input=…, output=…) for each."
            )
        marked = bool({"write", "irreversible"} & set(risks_of(agent).values()))
        self.writes = marked or bool(irreversible) if writes is None else writes
        self.repeatable = fresh or not self.writes
        self.model, self.local, self.takes_over = name, local, takes_over
        self.irreversible = frozenset(irreversible)
        self.stop, self._agent, self._fresh = stop, agent, fresh

    def check(self, parts: Parts) -> None:
        """Refuse a temperature that the agent would not follow, and a cascade that would run it on
        what it, or another, has written.

        Raises:
            ConfigurationError: with the ways out.
        """
        last = len(parts.tiers) - 1
        stand_ins = [one.tier for one in parts.middleware if isinstance(one, Fallback)]
        tiers = [*parts.tiers, *reversed(stand_ins)]  # in the order in which they are asked
        place = next(i for i, tier in enumerate(tiers) if tier.model is self)
        if (temperature := tiers[place].settings.temperature) is not None:
            raise ConfigurationError(f"{self.name} {_unheard('temperature', temperature)}.")
        if self.repeatable:
            return
        again = []
        for one in parts.middleware:
            beside = isinstance(one, AfterReply) and (one.kind == "audit") == (place == last)
            if beside and place <= last:
                again.append(f"{one.name} would run it beside the answer: leave {one.name} out")
        for above in tiers[place + 1 :]:
            if getattr(above.model, "takes_over", "restart") == "restart":
                way = "let it take over, AgentTier(…, takes_over='hand_over')"
                again.append(f"{above.name} would begin the task again on what they leave: {way}")
        checks = [s.name for s in parts.signals if s.calls and s.model is None]
        if place < last and (checks or not (parts.signals or parts.judge)):
            way = "signals=['trajectory'], or the signal a model of its own (signal.model = …)"
            again.append(f"{checks or 'p_true'} would run it again: give the cascade {way}")
        if again:
            raise ConfigurationError(f"the tools of {self.name} write, and {again[0]}; {_WAYS}.")

    async def answer(self, call: Call, ledger: Ledger) -> Completion:
        """Run the agent.

        Raises:
            UnsupportedContentError: the question has tools or settings for the agent's models, or
                asks for a second run of an agent whose tools write.
            ModelError: it failed.
        """
        run, request = call.run, call.request
        self._refuse(call)
        booking = _Booking(self, call, ledger)
        whole = booking.attempt(call.tier, request.messages)
        reason: str | None = None
        try:
            trajectory = await self._work(call, booking)
        except _Stopped as stopped:
            run.stopped = stopped.reason or run.stopped
            trajectory, reason = booking.trajectory, stopped.reason and "stopped"
        except GraphRecursionError as error:
            if call.node != "draft":
                raise self._unread(f"has used up its steps: {error}") from error
            trajectory, reason = booking.trajectory, "length"
        except Exception as error:
            if is_control_flow(error):
                raise
            run.notes[UNFINISHED] = cast("Any", messages_to_dict(_plain(booking.trajectory)))
            raise self._named(error, request) from error
        finally:
            await booking.close()
        run.notes.pop(UNFINISHED, None)
        completion = self._completion(call, trajectory, booking, reason)
        if not booking.calls:  # models that report nothing to callbacks
            async with ledger.attempt(whole):
                whole.completion = completion
        return completion

    async def _complete(self, request: Request) -> Completion:
        raise self._unsupported("is an agent: it is asked through a cascade, which books its calls")

    # --- one run

    def _refuse(self, call: Call) -> None:
        if call.request.tools:
            raise self._unsupported("has tools of its own: give those of the question to the agent")
        for option in () if call.node in PROBES else ("temperature", "seed", "stop"):
            if (value := getattr(call.request, option)) not in (None, ()):
                raise self._unsupported(_unheard(option, value))
        if not self.repeatable and (call.node == "self_check" or call.run.kind != "answer"):
            raise self._unsupported(f"is not run again for {call.node!r}: its tools write; {_WAYS}")

    async def _work(self, call: Call, booking: _Booking) -> list[Any]:
        """The messages that the agent adds to the task.

        It runs in the background loop, where its clients keep their connections, and apart from the
        graph around it, by whose checkpoints a question might get another's answer.
        """
        booking.task = [  # known from those which it adds, and the same ones after a crash
            m if m.id else m.model_copy(update={"id": f"{call.run.id}-{number}"})
            for number, m in enumerate(self._task(call))
        ]
        around: Any = (call.runtime.config or {}).get("callbacks")
        above = getattr(around, "parent_run_id", None)
        manager = looking_on(getattr(around, "handlers", around) or (), above, booking)
        config = RunnableConfig({**QUIET, "callbacks": manager, "configurable": {}})
        with set_config_context(config) as entered:
            context = entered.copy()

        async def run() -> Any:
            async with asyncio.timeout(call.request.timeout_s), AsyncExitStack() as stack:
                agent: Any = self._agent
                if self._fresh:
                    agent = agent()
                    if isinstance(agent, AbstractAsyncContextManager):
                        agent = await stack.enter_async_context(agent)
                    elif inspect.isawaitable(agent):
                        agent = await agent
                risks = risks_of(agent).items()
                booking.irreversible |= {name for name, risk in risks if risk == "irreversible"}
                return await self._asked(agent, booking, config, call)

        async def within() -> Any:
            return await InCopiedContext(run(), context)

        said = await on_portal(within())
        returned = f"{said!r:.200}"
        if isinstance(said, Mapping):
            if said.get("__interrupt__"):
                raise self._unsupported(
                    "waits for a person in the midst of its run: interrupts belong into the graph "
                    "around the cascade"
                )
            returned, said = f"keys {sorted(said)}", said.get("messages", ())
        said = AIMessage(said) if isinstance(said, str) else said
        try:
            messages = convert_to_messages([said] if isinstance(said, BaseMessage) else said)
        except (TypeError, ValueError, NotImplementedError):
            messages = []
        if added := booking.added(messages):
            return added
        raise self._unread(
            f"returned no message of its own, but {returned}: return messages, a text, or "
            "{'messages': [...]}"
        )

    async def _asked(self, agent: Any, booking: _Booking, config: Any, call: Call) -> Any:
        if not isinstance(agent, Runnable):
            return await agent(booking.task)
        asked: Any = booking.task
        kinds = getattr(agent.InputType, "__mro__", ())
        state = any("messages" in getattr(kind, "__annotations__", ()) for kind in kinds)
        if state or isinstance(agent, PregelProtocol):  # a graph, or what stands around one
            asked = {"messages": asked}
        # A thread of its own, also where something stands around a graph that has a checkpointer.
        config["configurable"] = {"thread_id": str(uuid4())}
        answers = call.node in ("draft", "expert") and call.run.kind == "answer"
        if answers and isinstance(getattr(agent, "checkpointer", None), BaseCheckpointSaver):
            graph: Any = agent
            config["configurable"] = {"thread_id": f"{call.run.id}-{call.tier.name}"}
            kept = await graph.aget_state(config)
            if kept.values and not kept.next:
                return kept.values  # it had ended when the process died
            booking.trajectory = booking.added(kept.values.get("messages", ()))
            asked = None if kept.next else asked
            # Written before the next step, else a killed process pays for the last one again.
            return await graph.ainvoke(asked, config, durability="sync")
        return await agent.ainvoke(asked, config)

    def _task(self, call: Call) -> list[Any]:
        """The task, with what the tier before has done, as far as this one is to see it."""
        task: list[Any] = list(call.request.messages)
        run, kept = call.run, call.run.notes.get(UNFINISHED)
        before = (
            messages_from_dict(cast("Any", kept)) if kept else run.draft and run.draft.trajectory
        )
        if self.takes_over == "restart" or run.kind != "answer":
            return task
        if self.takes_over == "hand_over" and before:
            return [*task, HumanMessage(HANDED_OVER + narrated(_closed(before)))]
        return [*task, *_closed(before), HumanMessage(TO_REPAIR)] if before else task

    def _completion(
        self, call: Call, trajectory: Sequence[Any], booking: _Booking, reason: str | None
    ) -> Completion:
        made = [completion_of(m, self.name) for m in trajectory if isinstance(m, AIMessage)]
        last = trajectory[-1] if trajectory and reason is None else AIMessage("")
        said = last if isinstance(last, AIMessage) else AIMessage(str(last.text))
        read = completion_of(said, self.name)
        calls = tuple(token for one in made for token in one.call_logprobs or ())
        limit = None if call.node in PROBES else call.request.max_tokens
        if limit is not None and (read.usage.output_tokens or 0) > limit:
            reason = "length"
        return replace(
            read,
            model=booking.model or self.name,
            usage=booking.usage if booking.calls else read.usage,
            call_logprobs=calls or None,
            finish_reason=reason or ("tool_calls" if read.tool_calls else "stop"),
            cached=False,
            trajectory=tuple(_plain(trajectory)),
        )

    # --- what goes wrong

    def _unsupported(self, why: str) -> UnsupportedContentError:
        return UnsupportedContentError(f"{self.name} {why}.", model=self.name)

    def _unread(self, why: str) -> MalformedResponseError:
        said = f"{self.name} {why.rstrip('.')}."
        return MalformedResponseError(said, model=self.name, billed=None)

    def _named(self, error: Exception, request: Request) -> CascadeError:
        named = error if isinstance(error, CascadeError) else None
        if isinstance(error, TimeoutError):
            limit = f"{request.timeout_s} s" if request.timeout_s else "its time"
            said = f"{self.name} did not come to an end within {limit}."
            named = ModelTimeoutError(said, model=self.name, billed=None)
        named = named or Caller(self.name, self.model).failed(error)
        named = named or self._unread(f"failed with {type(error).__name__}: {error}")
        if not self.repeatable:
            named.retryable = False  # type: ignore[attr-defined]
        return named


class AgentVerifier(AskedVerifier):
    """An agent as the verifier of a cascade.

    It reads the conversation and the run that led to the answer, may use its tools, and replies
    True or False; the policy decides by that, or by the log-probs of the word.

    Args:
        agent: an agent, as `AgentTier` takes it.
        options: those of `AgentTier`.
    """

    def __init__(self, agent: Any, **options: Any) -> None:
        def show(run: Run, draft: Completion) -> Sequence[BaseMessage]:
            return check_messages(run.messages, narrated(draft.trajectory) or draft.text)

        model = AgentTier(agent, **{"name": "verifier", **options})
        super().__init__(open_tier(model, "verifier"), show, p_true)


def recorded_agent(name: str) -> AgentTier:
    """An agent of which there are recorded runs alone, for their calibration."""

    async def answer(messages: Sequence[BaseMessage]) -> None:
        raise ConfigurationError(
            f"agent:{name} is only recorded: give an AgentTier(…) to be asked."
        )

    return AgentTier(answer, name=name)


# --- booking


class _Stopped(BaseException):
    """The run was stopped, or ends in an irreversible call; no `except Exception` of an agent takes
    it for a failure."""

    def __init__(self, reason: str | None = None) -> None:
        self.reason = reason


class _Booking(BaseCallbackHandler):
    """Books each model call inside an agent's run, and stops the run before it does what it must
    not."""

    raise_error = True  # else LangChain logs what fails here, and sends the call unbooked
    run_inline = True
    on_chat_model_start: Any = property(lambda self: _edge(self._begun))
    on_llm_start: Any = property(lambda self: _edge(self._prompted))
    on_llm_end: Any = property(lambda self: _edge(self._ended))
    on_llm_error: Any = property(lambda self: _edge(self._failed))

    def __init__(self, agent: AgentTier, call: Call, ledger: Ledger) -> None:
        self.calls, self.model = 0, ""
        self.task: list[Any] = []
        self.trajectory: list[Any] = []
        self.irreversible = set(agent.irreversible)
        self._agent, self._call, self._ledger = agent, call, ledger
        self._open: dict[UUID, tuple[AbstractAsyncContextManager[Attempt], Attempt]] = {}
        self._usages: list[Usage] = []

    @property
    def usage(self) -> Usage:
        """The sum over all calls; unknown where it is of one."""
        if len(self._usages) != self.calls:
            return Usage()
        counts = {n: [getattr(usage, n) for usage in self._usages] for n in Usage.model_fields}
        return Usage(**{n: None if None in each else sum(each) for n, each in counts.items()})

    def added(self, messages: Sequence[Any]) -> list[Any]:
        """Those that are not of the task."""
        known = {message.id for message in self.task}
        return [message for message in messages if message.id not in known]

    def attempt(self, tier: OpenTier, messages: Sequence[BaseMessage]) -> Attempt:
        """A call to be booked."""
        run, node = self._call.run, self._call.node
        node = node if run.kind != "shadow" else "shadow"
        return Attempt(run.id, node, tier, messages, tags=run.settings.get("tags") or {})

    async def _begun(
        self,
        serialized: Any,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        call, stop = self._call, self._agent.stop
        if guard.forbidden and "fake" not in str(serialized).lower():
            raise RealRequestForbiddenError(
                f"a request of {self._agent.name} was stopped: real model requests are forbidden "
                "here."
            )
        (sent,) = messages
        self.trajectory = [m for m in self.added(sent) if m.type != "system"]
        if stop is not None and call.node == "draft" and self.trajectory:
            reason = stop(self.task, self.trajectory)
            if reason is not None:
                raise _Stopped(reason)
        attempt = self.attempt(self._tier(metadata or {}), sent)
        attempt.continued = len(self.task) > len(call.request.messages)
        held = self._ledger.attempt(attempt)
        await held.__aenter__()
        self.calls += 1
        self._open[run_id] = held, attempt

    async def _prompted(self, serialized: Any, prompts: Sequence[str], **more: Any) -> None:
        await self._begun(serialized, [[HumanMessage(text) for text in prompts]], **more)

    async def _ended(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        held, attempt = self._open.pop(run_id, (None, None))
        if held is None or attempt is None:
            return
        first: Any = response.generations[0][0]
        message: Any = getattr(first, "message", None) or AIMessage(first.text)
        said = attempt.completion = completion_of(message, attempt.tier.model.name)
        self._usages.append(said.usage)
        self.model, self.trajectory = said.model, [*self.trajectory, message]
        await held.__aexit__(None, None, None)
        if self.irreversible & {call["name"] for call in message.tool_calls}:
            raise _Stopped

    async def _failed(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        held, attempt = self._open.pop(run_id, (None, None))
        if held is not None and attempt is not None:
            caller = Caller(attempt.tier.model.name, "its server")
            named = caller.failed(error) if isinstance(error, Exception) else None
            await held.__aexit__(type(named or error), named or error, None)

    def on_tool_start(
        self, serialized: Any, input_str: str, *, metadata: Any = None, **_: Any
    ) -> None:
        """Stop the run before a tool that is marked irreversible where no graph shows its tools."""
        name = (serialized or {}).get("name")
        if name in self.irreversible or (metadata or {}).get(RISK) == "irreversible":
            raise _Stopped

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
        provider = str(metadata.get("ls_provider") or "unknown")
        name = str(metadata.get("ls_model_name") or "unknown")
        model: Any = SimpleNamespace(name=f"{provider}:{name}", local=outer.local, server=None)
        if outer.settings.price is not None:
            return replace(outer, model=model)
        listed = find_pricing(provider, name, local=outer.local)
        return replace(outer, model=model, pricing=self._agent.prices.get(model.name) or listed)


def _edge(work: Callable[..., Any]) -> Callable[..., Any]:
    """A method for LangChain's callbacks, which await it where the model call is asynchronous. Of a
    synchronous call in a thread it is waited for here: LangChain would swallow what it raises."""
    if running_loop() is not None:
        return work
    return lambda *given, **named: run_sync(work(*given, **named))


# --- messages and tools


def risks_of(agent: Any) -> dict[str, str]:
    """Risks with which the tools of an agent are marked, by name: of its graphs, of the graphs in
    them, and of what its functions refer to."""
    found, seen, waiting = dict[str, str](), dict[int, Any](), [agent]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part
        waiting += _within(part)
        for place in (part.metadata, part.extras) if isinstance(part, BaseTool) else ():
            if (mark := (place or {}).get(RISK)) and found.get(part.name) != "irreversible":
                found[part.name] = mark
    return found


def _within(part: Any) -> list[Any]:
    """What an agent, or a part of it, is made of; of a function, what it refers to, but for other
    functions, which would lead everywhere."""
    if isinstance(part, PregelProtocol):
        return [node.bound for node in getattr(part, "nodes", {}).values()]
    if isinstance(part, Runnable):
        return list(getattr(part, "__dict__", {}).values())
    if inspect.isroutine(part):
        own = getattr(part, "__self__", None)
        held = [own, *getattr(own, "__dict__", {}).values()]
        with suppress(TypeError, ValueError):  # no Python, or a variable that has no value yet
            named = inspect.getclosurevars(inspect.unwrap(part))
            held += [*named.nonlocals.values(), *named.globals.values()]
    elif isinstance(part, Mapping | list | tuple):
        held = list(part.values() if isinstance(part, Mapping) else part)
    else:
        return [part.__call__] if callable(part) and not inspect.isclass(part) else []
    return [each for each in held if isinstance(each, Runnable | Mapping | list | tuple)]


def _plain(messages: Sequence[Any]) -> list[Any]:
    """Messages as a checkpoint can hold them: artifacts of tools may be anything, and the features
    of log-probabilities are taken."""
    plain = []
    for message in messages:
        told = {k: v for k, v in message.response_metadata.items() if k != "logprobs"}
        bare = {"artifact": None} if isinstance(message, ToolMessage) else {}
        plain.append(message.model_copy(update={"response_metadata": told, **bare}))
    return plain


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


def _unheard(option: str, value: object) -> str:
    return f"would not follow {option}={value!r}: give it to the agent's models"
