"""Cascade: what a user holds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from decimal import Decimal
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade._numbers import to_count, to_number
from cascade._portal import iterated, synchronous
from cascade.agents import Route
from cascade.agents.verifier import Judge
from cascade.errors import ConfigurationError, InputError, MissingDependencyError, PersonNeededError
from cascade.events import Event
from cascade.kernel import Kernel, watched
from cascade.ledger.base import LedgerStore
from cascade.ledger.entries import LedgerView
from cascade.ledger.prices import has_price
from cascade.middleware.base import CascadeMiddleware
from cascade.middleware.local_only import LocalOnly
from cascade.middleware.resilience import Breaker, Deadline, Retries
from cascade.middleware.tool_risks import ToolRisks
from cascade.policies import CertifiedPolicy, EconomicPolicy, Policy, ThresholdPolicy
from cascade.questions import Question, ResponseFormat, parse, to_messages, to_settings
from cascade.result import CascadeResult
from cascade.run import CascadeRuntime, Parts, Run, Show
from cascade.state import Decision
from cascade.tiers import ModelLike, OpenTier, open_tiers

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.graph import StateGraph
    from langgraph.graph.state import CompiledStateGraph

    from cascade.confidence.calibration import Calibration
    from cascade.confidence.signals import SignalLike

logger = logging.getLogger("cascade")


class Cascade(AbstractContextManager["Cascade"], AbstractAsyncContextManager["Cascade"]):
    """A small model drafts, its confidence is checked, a large model answers what is doubtful.

    Args:
        small: the model that drafts: `provider:name`, a `Tier`, or a LangChain chat model.
        large: the model that answers what the draft is not good enough for.
        tiers: more than two models instead, from small to large.
        signals: of the self-check: names (`logprobs`, `p_true`, `verbalised`, …), signals, or your
            functions `(question, answer) → value`. By default log-probs, which are free, where the
            tier returns them, else, without a verifier, `p_true`, one more call.
        calibrator: a calibration or its file, made by `cascade calibrate` for these models, tools
            and settings: confidence is then a probability.
        policy: decides about drafts, instead of the next four options.
        threshold: accept at this confidence and above; 0.8 by default.
        price_of_error: dollars that a wrong answer costs you, against which escalation is weighed.
            Needs a token price on every tier but the first.
        max_harm: bound on P(accepted and wrong) per request, for which the calibration needs a
            certificate.
        escalation_budget: share of requests that may be escalated; needs a calibration.
        verifier: your judge, `(question, answer) → bool | float | Verdict`, also async.
        router: your rule, `messages → tier name | None`, asked before anything is drafted.
        response_format: pydantic model, TypedDict, dataclass or JSON schema; a draft that breaks it
            is escalated.
        tools: tools the answer may call; a call that breaks its schema is escalated.
        audit_rate: share of accepted drafts that the large model is asked about as well, after the
            reply. Needs a ledger.
        ledger: a store that receives each entry the moment it arises.
        local_only: no way leads to a tier elsewhere; what none here is good enough for is answered
            with the draft, marked as degraded (True, `"answer"`), or not at all (`"abstain"`).
        deadline: seconds for a whole run. What would be escalated is accepted when the large model
            cannot answer in time.
        middleware: optional features, `cascade.middleware`, in any order. `Retries()` and
            `Breaker()` are there unless you give your own.
        name: of the graph.

    Raises:
        ConfigurationError: something in the set-up cannot work; the message says what.
    """

    def __init__(  # noqa: PLR0913 - the contract's options
        self,
        small: ModelLike | None = None,
        large: ModelLike | None = None,
        *,
        tiers: Sequence[ModelLike] = (),
        signals: Sequence[SignalLike] = (),
        calibrator: str | Path | Calibration | None = None,
        policy: Policy | None = None,
        threshold: float | None = None,
        price_of_error: float | Decimal | str | None = None,
        max_harm: float | None = None,
        escalation_budget: float | None = None,
        verifier: Judge | None = None,
        router: Route | None = None,
        response_format: ResponseFormat | None = None,
        tools: Sequence[Any] = (),
        audit_rate: float | None = None,
        ledger: LedgerStore | None = None,
        local_only: bool | str = False,
        deadline: float | None = None,
        middleware: Sequence[CascadeMiddleware] = (),
        name: str = "cascade",
    ) -> None:
        for option, value in (("verifier", verifier), ("router", router)):
            if value is not None and not callable(value):
                raise ConfigurationError(f"{option}={value!r}: give a function.")
        if not isinstance(name, str) or not name.strip():
            raise ConfigurationError(f"name={name!r}: give a text.")
        if audit_rate is not None and ledger is None:
            raise ConfigurationError(f"audit_rate={audit_rate}: audits need ledger=…, their place.")
        if max_harm is not None and deadline is not None:
            raise ConfigurationError(
                f"max_harm={max_harm} promises that what its certificate does not cover is "
                f"escalated; deadline={deadline} accepts it when time runs out. Give one of them."
            )
        self.name = name
        self.tiers = open_tiers(small, large, tiers, local_only=bool(local_only))
        offered = None if tools == () else tools
        self.settings = to_settings(tools=offered, response_format=response_format)
        self._response_format = response_format
        self._told = False
        self.calibration: Calibration | None = None
        stack = choose_middleware(middleware, deadline, local_only, audit_rate)
        parts: dict[str, Any] = {"judge": verifier, "route": router, "middleware": stack}
        if calibrator is not None:
            from cascade.middleware.calibrated import Calibrated  # noqa: PLC0415 - numpy

            made = Calibrated(calibrator, self.tiers, self.settings)
            self.calibration = made.calibration
            stack.append(made)
            parts |= {"signals": made.signals(signals), "holds": made.holds}
            parts["calibrators"] = {self.tiers[0].name: made.calibration}
        elif signals != ():
            from cascade.confidence.signals import to_signals  # noqa: PLC0415 - seldom

            parts["signals"] = to_signals(signals)
        decides = {"policy": policy, "threshold": threshold, "price_of_error": price_of_error}
        decides |= {"max_harm": max_harm, "escalation_budget": escalation_budget}
        self.policy = choose_policy(self.tiers, self.calibration, **decides)
        parts |= {"store": ledger, "settings": self.settings, "name": name}
        self.kernel = Kernel(Parts(self.tiers, self.policy, **parts))

    # --- asking

    async def ainvoke(
        self, question: Question, config: RunnableConfig | None = None, **settings: Any
    ) -> CascadeResult:
        """Ask one question.

        Args:
            question: a string, a list of messages, or `{"messages": [...]}`.
            config: LangChain's run configuration; with callbacks, LangGraph drives the run.
            settings: what this question is asked with, keys of `cascade.run.Settings`, and
                `response_format`; LangChain tools are taken as well.

        Raises:
            InputError: the question is empty or cannot be read.
            ModelError: no tier could answer; `error.ledger` holds what was spent.
        """
        run, form = self._begin(question, settings)
        await self.kernel.drive(run, self.kernel.runtime(config, "final"))
        return self._result(run, form)

    async def astream(
        self,
        question: Question,
        config: RunnableConfig | None = None,
        *,
        show: Show = "verified",
        **settings: Any,
    ) -> AsyncGenerator[Event | CascadeResult]:
        """Ask one question and watch: decisions, then tokens, at last the `CascadeResult`.

        `show` is `verified`: no word before the decision; `optimistic`: drafts at once, as
        `Provisional`, and `Retracted` where one is rejected; or `final`: only the result. Raises as
        `ainvoke` does.
        """
        if show not in ("verified", "optimistic", "final"):
            raise ConfigurationError(f"show={show!r}: give one of verified, optimistic, final.")
        run, form = self._begin(question, settings)
        runtime = self.kernel.runtime(config, show)
        work = partial(self.kernel.drive, run, runtime)
        if show == "final":
            await work()
        else:
            async with watched(work, runtime) as events:
                while (event := await events.get()) is not None:
                    yield event
        yield self._result(run, form)

    async def abatch(
        self,
        questions: Sequence[Question],
        config: RunnableConfig | None = None,
        *,
        max_concurrency: int = 16,
        return_exceptions: bool = False,
        **settings: Any,
    ) -> list[Any]:
        """Ask many questions; `CascadeResult`s come in their order. `max_concurrency` of them are
        under way at once. With `return_exceptions` errors stand in their places; else the first is
        raised, and stops all others.

        Raises:
            ConfigurationError: the questions are no list.
        """
        if isinstance(questions, str | bytes | Mapping) or not isinstance(questions, Sequence):
            raise ConfigurationError(
                f"batch of {type(questions).__name__}: give a list of questions, batch([…]); "
                "invoke(…) asks one."
            )
        free = asyncio.Semaphore(to_count("max_concurrency", max_concurrency))

        async def ask(question: Question) -> CascadeResult:
            async with free:
                return await self.ainvoke(question, config, **settings)

        tasks = [asyncio.ensure_future(ask(question)) for question in questions]
        try:
            return await asyncio.gather(*tasks, return_exceptions=return_exceptions)
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)  # the others have closed their calls and booked them

    invoke = synchronous(ainvoke)
    batch = synchronous(abatch)
    stream = iterated(astream)

    async def aresume(self, run: Run, said: object) -> CascadeResult:
        """Go on with a run that waits for a person (`PersonNeededError.run`), who said `"accept"`,
        `"escalate"`, `"reject"`, or `{"answer": "…"}`. It may have been written down in another
        process (`Run.to_json`).

        Raises:
            InputError: they said something else, or the run waits for nobody.
        """
        if not isinstance(run, Run) or run.step != "person":
            told = "resume goes on with a run that waits for a person"
            raise InputError(f"{told}, such as PersonNeededError.run: this one does not.")
        runtime = self.kernel.runtime(None, "final")
        runtime.said = said
        return await self.adrive(run, runtime)

    async def adrive(self, run: Run, runtime: CascadeRuntime) -> CascadeResult:
        """Take a run to its end in this process, without LangGraph: for integrations that make the
        run (`kernel.begin`) and its runtime themselves.

        Raises:
            ModelError: no tier could answer; `error.ledger` holds what was spent.
            PersonNeededError: the run waits for a person.
        """
        await self.kernel.answer(run, runtime)
        return self._result(run, self._format_of(run))

    resume = synchronous(aresume)

    async def afeedback(self, run_id: str, **said: Any) -> bool:
        """Say what the answer of a run was worth, and learn whether that is new.

        Another verdict of the same `key` and `by` replaces the earlier one. Its figures go to the
        ledger, its words to `cascade.teaching.Lessons`.

        Args:
            run_id: of the run, `result.run_id`.
            said: fields of `cascade.ledger.feedback.Feedback`: `correct`, `score`, `comment`, ….

        Raises:
            UnknownRunError: neither the ledger nor the lessons know such a run.
            InputError: it says nothing, or something that has no meaning.
            ConfigurationError: there is no place for it.
        """
        from cascade.ledger.feedback import keep_feedback  # noqa: PLC0415 - seldom

        said["run_id"] = run_id
        return await keep_feedback(said, self.kernel.ledger.store, self.kernel.middleware)

    feedback = synchronous(afeedback)

    async def acalibrate(
        self,
        examples: Sequence[Any],
        *,
        scorer: Any = "exact",
        max_harms: Sequence[float] = (),
        delta: float = 0.1,
    ) -> Calibration:
        """A calibration of this cascade for `Cascade(…, calibrator=…)`; `save(path)` keeps it.
        Both models are asked about each example.

        Args:
            examples: 50 to 300 `(question, reference)` pairs.
            scorer: compares answers with references: `exact`, `choice`, `numeric`, … or a function.
            max_harms: bounds on P(accepted and wrong) to certify, such as `[0.05]`.
            delta: the chance that a certificate does not hold.

        Raises:
            ConfigurationError: too few examples, or a bound that is none; nothing was asked.
            ModelError: the models cannot be asked.
        """
        try:
            from cascade.calibrate import calibrate_examples  # noqa: PLC0415 - numpy, scikit-learn
        except ImportError as error:
            told = f"{error}: in a clone, pip install '.[calibrate]'."
            raise MissingDependencyError(told) from error

        options: Any = {"max_harms": max_harms, "delta": delta}
        fitted = await calibrate_examples(self.kernel.parts, examples, scorer, **options)
        return fitted.calibration

    calibrate = synchronous(acalibrate)

    # --- the graph

    @property
    def graph(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        """The compiled graph, usable as a node or subgraph of another graph, whose checkpointer it
        inherits."""
        return self.kernel.graph

    def build_graph(self) -> StateGraph[Any, Any, Any, Any]:
        """A fresh, uncompiled graph, to be rewired or compiled with a checkpointer."""
        from cascade.graph import build_graph  # noqa: PLC0415 - LangGraph takes a second to load

        return build_graph(self.kernel)

    def read(self, state: Mapping[str, Any]) -> CascadeResult:
        """The result that the output of `graph` holds.

        Raises:
            InputError: it is no such output, or the run has not come to its end.
            PersonNeededError: the run waits for a person.
        """
        if not isinstance(state, Mapping) or not {"messages", "run"} <= state.keys():
            raise InputError(
                "the state holds no run: give what cascade.graph returned. In the state of a graph "
                "around it, the last message has `tier` and `run_id` in its response_metadata."
            )
        run = Run.from_json(state["run"], list(state["messages"]))
        if run.step not in ("end", "person"):  # its draft may still be rejected
            raise InputError(
                f"the run has not come to its end, {run.step!r} is next: go on with it, "
                "graph.invoke(None, config), and read what that returns."
            )
        return self._result(run, self._format_of(run))

    def as_chat_model(self, **settings: Any) -> Any:
        """The cascade as a LangChain chat model, with settings of `BaseChatModel` such as
        `disable_streaming`."""
        above = import_module("cascade.integrations.langchain")  # by name: it imports this module
        return above.CascadeChatModel(cascade=self, **settings)

    # --- its end

    async def aclose(self) -> None:
        """Finish audits under way, close connections, free local models; it may be used again."""
        await self.kernel.aclose()

    close = synchronous(aclose)

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        chain = " → ".join(f"{tier.name} ({tier.model.name})" for tier in self.tiers)
        return f"Cascade({chain}, {self.policy!r})"

    # --- within

    def _begin(
        self, question: Question, settings: Mapping[str, Any]
    ) -> tuple[Run, ResponseFormat | None]:
        messages = to_messages(question)
        form = settings.get("response_format", self._response_format)
        return self.kernel.begin(messages, to_settings(**settings) if settings else None), form

    def _format_of(self, run: Run) -> ResponseFormat | None:
        """The format that a kept run was asked for: of one of its own it has the schema."""
        schema = run.settings.get("schema")
        return self._response_format if schema == self.settings.get("schema") else schema

    def _result(self, run: Run, form: ResponseFormat | None) -> CascadeResult:
        """The result of a run that has come to its end."""
        if run.step == "person":
            raise PersonNeededError(
                "a person is asked, and no checkpointer keeps the run: resume(error.run, …) goes "
                "on with it, or use cascade.graph in a graph with a checkpointer, or "
                "cascade.build_graph().compile(checkpointer=…), and Command(resume=…).",
                run,
            )
        draft, message = run.draft, run.to_message()
        answer = str(message.text)
        names = [tier.name for tier in self.tiers]
        tier = run.source or (draft.tier if draft else "") or names[0]
        decision = run.decision or Decision(action="accept", reason=f"answered by {run.source}")
        judged = run.assessment or decision
        if not judged.calibrated and judged.confidence is not None and not self._told:
            self._told = True
            logger.info(
                "%s: confidence is an uncalibrated score; it orders answers but is no probability. "
                "`cascade calibrate` makes one of it from 50 to 300 examples.",
                self.name,
            )
        asked = any(entry.model and entry.outcome == "ok" for entry in run.entries)
        by_tier = tier in names or bool(draft and draft.tier)  # else a middleware or a person
        return CascadeResult(
            answer=answer,
            message=message,
            parsed=parse(answer, form),
            tier=tier,
            escalated=by_tier and tier not in (names[0], "person"),
            confidence=judged.confidence,
            calibrated=judged.calibrated,
            decision=decision,
            degraded=run.degraded,
            ledger=LedgerView(run.entries),
            run_id=run.id,
            cached=not asked and tier in names,
        )


def choose_middleware(
    given: Sequence[CascadeMiddleware],
    deadline: float | None,
    local_only: bool | str,
    audit_rate: float | None,
) -> list[CascadeMiddleware]:
    """The user's middleware, that of the contract's options, and the usual: retries, a circuit
    breaker, and the deadline, border and tool risks that a question may bring."""
    if isinstance(given, CascadeMiddleware | str | bytes) or not isinstance(given, Sequence):
        raise ConfigurationError(f"middleware={given!r}: give a list, such as [Retries()].")
    options: dict[Any, Any] = {Deadline: ("deadline", deadline)}
    options[LocalOnly] = ("local_only", local_only or None)
    if audit_rate is not None:
        from cascade.middleware.audits import Audits  # noqa: PLC0415 - only where it is asked for

        options[Audits] = ("audit_rate", audit_rate)
    stack = list(given)
    for kind in (Retries, Breaker, ToolRisks, *options):
        option, value = options.get(kind, ("", None))
        if not any(isinstance(one, kind) for one in given):
            stack.append(kind() if value is None else kind(value))
        elif value is not None:
            raise ConfigurationError(
                f"{option}={value!r} and middleware=[{kind.__name__}(…)] were both given: leave "
                "one of them out."
            )
    return stack


def choose_policy(
    tiers: Sequence[OpenTier], calibration: Calibration | None, **given: Any
) -> Policy:
    """The one policy that the options `policy`, `threshold`, `price_of_error`, `max_harm` and
    `escalation_budget` mean; None for those that were not given."""
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) > 1:
        raise ConfigurationError(
            f"{' and '.join(named)} were given: each of them decides alone. Give one."
        )
    name, value = next(iter(named.items()), ("policy", ThresholdPolicy()))
    if name == "policy":
        if isinstance(value, type) or not isinstance(value, Policy):
            raise ConfigurationError(
                f"policy={value!r}: give an object with decide(situation), such as "
                "ThresholdPolicy(0.9)."
            )
        return value
    number = to_number(name, value, **({"above": 0, "below": 1} if name == "max_harm" else {}))
    if name == "threshold":
        return ThresholdPolicy(number)
    if name == "price_of_error":
        for tier in tiers[1:]:
            if not has_price(tier.pricing):
                raise ConfigurationError(
                    f"price_of_error weighs an error against what {tier.name} ({tier.model.name}) "
                    f"costs, which is unknown ({tier.pricing.source}). Set "
                    "Tier(…, price=Price(input=…, output=…)), dollars per 1M tokens, or decide by "
                    "threshold or escalation_budget."
                )
        p_large = None if calibration is None else calibration.p_large
        return EconomicPolicy(number, 1.0 if p_large is None else p_large)
    harm = f" … --max-harm {value}" if name == "max_harm" else ""
    if calibration is None:
        raise ConfigurationError(
            f"{name}={value} needs calibrator=…: make one with `cascade calibrate{harm}`."
        )
    if not harm:
        return ThresholdPolicy.at_rate(calibration.confidences, number)
    fitting = [c for c in calibration.certificates if c.max_harm <= number]
    if not fitting:
        there = ", ".join(f"{c.max_harm:.1%}" for c in calibration.certificates) or "none"
        raise ConfigurationError(
            f"max_harm={value}: the calibration has certificates for {there}; make one with "
            f"`cascade calibrate{harm}`."
        )
    return CertifiedPolicy(max(fitting, key=lambda certificate: certificate.coverage))
