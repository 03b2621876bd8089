"""A cascade as a chat model or decision model of LangChain's, and decision models as verifiers."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextvars import Context
from decimal import Decimal
from functools import cached_property, partial, reduce
from typing import Annotated, Any, Literal, cast

from langchain_core import decisions as core
from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackHandler
from langchain_core.decisions import Choice, Noul, Score
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.output_parsers import JsonOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.runnables.config import ensure_config, set_config_context
from langchain_core.tracers.base import AsyncBaseTracer, BaseTracer
from langchain_core.tracers.log_stream import LogStreamCallbackHandler
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass, is_pydantic_v1_subclass
from pydantic import AfterValidator, ConfigDict, InstanceOf, PrivateAttr, TypeAdapter
from typing_extensions import is_typeddict

from cascade._portal import iterated, on_portal, synchronous
from cascade.agents import Verdict
from cascade.api import Cascade
from cascade.confidence import Asked, Probe, Signal
from cascade.errors import ConfigurationError, LocalOnlyError, ModelError, StreamInterruptedError
from cascade.events import Decided, Event, Retracted, Token
from cascade.kernel import InCopiedContext, graph_around, watched
from cascade.ledger.entries import LedgerEntry
from cascade.models import Model, Request
from cascade.models.http import Caller
from cascade.models.langchain import QUIET, sending_once
from cascade.models.logprobs import to_openai
from cascade.questions import to_messages, to_schema, to_settings
from cascade.result import CascadeResult
from cascade.run import Call, CascadeRuntime, Run, Settings, to_request
from cascade.state import Completion, Usage
from cascade.tiers import OpenTier, Tier, open_tier


def _without_a_cache(given: object) -> bool:
    if given:
        raise ValueError("LangChain's cannot tell cascades apart: use the middleware Cache(…)")
    return False


class CascadeChatModel(BaseChatModel):
    """A cascade behind LangChain's chat-model interface; made by `cascade.as_chat_model()`.

    `response_metadata` says who answered (`tier`), how sure the cascade was, why, what it cost and
    saved, and the `run_id` of its ledger entries. `usage_metadata` is the sum over all calls.

    A call may bring what `Cascade.ainvoke` takes, also in OpenAI's words, and `timeout`, seconds
    for each call of a tier; what else there is goes to every provider as it is. In a graph,
    decisions go to its `custom` stream, and verifiers and signals see its `context` and store.
    Streams show nothing before the decision; an answer that breaks off after a part was shown is a
    `StreamInterruptedError`.
    """

    model_config = ConfigDict(extra="forbid")

    cascade: InstanceOf[Cascade]
    cache: Annotated[Any, AfterValidator(_without_a_cache)] = False

    async def _agenerate(  # LangChain looks at its parameters
        self, messages: Any, stop: Any = None, run_manager: Any = None, **more: Any
    ) -> ChatResult:
        run, runtime, context = self._prepared(messages, stop, run_manager, **more)
        result = await InCopiedContext(self.cascade.adrive(run, runtime), context)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(**_message(result, run)))])

    _generate = cast("Any", synchronous(_agenerate))

    async def _astream(self, *given: Any, **more: Any) -> AsyncGenerator[ChatGenerationChunk]:
        run, runtime, context = self._prepared(*given, **more)
        shown, tell, work = "", runtime.emit, partial(self.cascade.kernel.answer, run, runtime)
        async with watched(work, runtime, context) as events:
            while (event := await events.get()) is not None:
                tell(event)
                if isinstance(event, Token):
                    shown += event.text
                    for word in re.findall(r"\s*\S+|\s+$", event.text):  # a draft comes whole
                        yield ChatGenerationChunk(message=AIMessageChunk(content=word))
                elif isinstance(event, Retracted) and shown:
                    way = "ask again, or set disable_streaming=True, which waits for the whole"
                    told = f"{event.reason}. A part of the answer was shown already: {way}."
                    raise StreamInterruptedError(told, model="cascade", billed=None)
        last = _message(await self.cascade.adrive(run, runtime), run)  # the result: it has ended
        last["content"] = last["content"][len(shown) :]
        yield ChatGenerationChunk(message=AIMessageChunk(**last, chunk_position="last"))

    _stream = cast("Any", iterated(_astream))

    def _prepared(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **given: Any
    ) -> tuple[Run, CascadeRuntime, Context]:
        """The run, with the configuration and context around it, in which tracers look on alone:
        whatever counts tokens or shows them would do so twice, also with rejected drafts."""
        kernel, config = self.cascade.kernel, cast("Any", ensure_config())
        settings = _settings({"stop": stop, **given}, self.cascade.settings.get("tools", ()))
        config["callbacks"] = looking_on(run_manager)
        config["metadata"] |= {} if run_manager is None else run_manager.metadata
        if agent := config["metadata"].get("lc_agent_name"):
            settings["tags"] = {"agent": str(agent), **settings.get("tags", {})}
        if thread := config["metadata"].get("thread_id"):  # no `configurable` comes this far
            config["configurable"].setdefault("thread_id", thread)
        runtime = kernel.runtime(config, "verified")
        if (around := graph_around()) is not None:

            def emit(event: Event) -> None:
                if isinstance(event, Decided | Retracted):  # the answer goes the way of messages
                    around.stream_writer(event)

            runtime.emit = emit
        with set_config_context(config) as entered:
            context = entered.copy()
        for variable, value in context.items():
            # `get_usage_metadata_callback` and its like stand in variables of their own.
            if isinstance(value, BaseCallbackHandler) and not _looks_on(value):
                context.run(variable.set, None)
        return kernel.begin(to_messages(messages), settings), runtime, context

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | Any],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with tools: a draft whose call breaks its schema is escalated.

        `tool_choice` is `any` (or True), `auto`, `none`, the name of a tool, or OpenAI's dict;
        `strict` has providers that can hold the arguments to their schema.

        Raises:
            ConfigurationError: a tool cannot be read.
        """
        read = to_settings(tools=tools).get("tools", [])
        if strict is not None:
            read = [t | convert_to_openai_tool(t["function"], strict=strict) for t in read]
        return self.bind(tools=read, tool_choice=tool_choice, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: Literal["json_schema", "function_calling", "json_mode"] = "json_schema",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """The model with answers of a form: a draft that has not this form is escalated.

        `json_schema` and `json_mode` hold the text of the answer to the schema, and keep the free
        log-probs as signal; `function_calling` asks for a tool call. `include_raw` is LangChain's.

        Raises:
            ConfigurationError: the schema cannot be read, or the method does not fit it.
        """
        form: Any = schema
        # LangChain reads descriptions of a TypedDict, models of pydantic 1, and OpenAI's functions.
        read = is_typeddict(schema) or is_basemodel_subclass(form)
        if not (read or (isinstance(schema, dict) and schema.keys() & {"function", "parameters"})):
            form = {"name": "answer", "parameters": to_schema(schema)}
        form = convert_to_json_schema(form, strict=strict)
        methods = ["json_schema", "json_mode", *["function_calling"] * ("properties" in form)]
        if method not in methods:
            raise ConfigurationError(f"method={method!r}: this schema has {', '.join(methods)}.")
        traced = {"kwargs": {"method": method, "strict": strict}, "schema": form}
        kwargs["ls_structured_output_format"] = traced
        llm: Runnable[LanguageModelInput, AIMessage] = self.bind(response_format=form, **kwargs)
        if method == "function_calling":
            llm = self.bind_tools([form], tool_choice=form["title"], strict=strict, **kwargs)

        kind: Any = Any if isinstance(schema, Mapping) or is_typeddict(schema) else schema
        v1 = is_pydantic_v1_subclass(kind)
        parse = kind.parse_obj if v1 else TypeAdapter(kind).validate_python

        def structured(message: AIMessage) -> Any:
            calls, parsed, failed = message.tool_calls, None, None
            try:
                said = calls[0]["args"] if calls else JsonOutputParser().parse(str(message.text))
                parsed = parse(said)
            except ValueError as error:
                failed = OutputParserException(f"the answer is no {form['title']}: {error}")
                if not include_raw:
                    raise failed from error
            with_raw = {"raw": message, "parsed": parsed, "parsing_error": failed}
            return with_raw if include_raw else parsed

        return llm | structured

    @property
    def _llm_type(self) -> str:
        return "cascade"

    def _get_ls_params(self, stop: Any = None, **kwargs: Any) -> Any:
        names = " → ".join(tier.model.name for tier in self.cascade.tiers)
        own: Any = {"ls_provider": "cascade", "ls_model_name": names}
        return super()._get_ls_params(stop, **kwargs) | own


def _settings(given: Mapping[str, Any], tools: Sequence[Mapping[str, Any]] = ()) -> Settings:
    """Settings of a run, from a call in LangChain's and OpenAI's words; other parameters, but for
    `model`, since a cascade asks its own, go to every provider. `tools` are the cascade's."""
    done = ("stream", "strict")  # the method that is running; in tools and schemas already
    named = {name: v for name, v in given.items() if v is not None and name not in done}
    if "timeout" in named:
        named["timeout_s"] = named.pop("timeout")
    if (wanted := named.pop("logprobs", None)) is not None:
        named["top_logprobs"] = named.get("top_logprobs", 0) if wanted else None
    match named.get("response_format"):
        case {"type": "json_object"}:
            named["response_format"] = {"type": "object"}
        case {"type": "json_schema", "json_schema": {"schema": dict(schema), **described}}:
            named["response_format"] = {"title": described.get("name", "answer"), **schema}
    known = {"model", "tools", "response_format", *Settings.__annotations__}
    extra = {name: named.pop(name) for name in named.keys() - known}
    if extra:
        named["extra"] = named.get("extra", {}) | extra
    choice = wanted = named.pop("tool_choice", None)
    settings = to_settings(**named)
    if choice is None:
        return settings
    match choice:
        case {"function": {"name": wanted}} | {"name": wanted}:
            pass
        case True | "any":
            wanted = "required"
    names = [tool["function"]["name"] for tool in settings.get("tools", tools)]
    settings["tool_choice"] = wanted = str(wanted or "auto")
    if wanted not in ["auto", "none", *names, *(["required"] if names else [])]:
        way = "give 'any', 'auto', 'none' or the name of a tool; tools there are"
        raise ConfigurationError(f"tool_choice={choice!r}: {way}: {', '.join(names) or 'none'}.")
    return settings


def looking_on(around: Any, *own: BaseCallbackHandler) -> AsyncCallbackManager:
    """Callbacks of what runs below a run: the tracers among those around it, and its own."""
    those = [*own, *filter(_looks_on, getattr(around, "inheritable_handlers", around) or ())]
    above = getattr(around, "run_id", None) or getattr(around, "parent_run_id", None)
    return AsyncCallbackManager(those, inheritable_handlers=those, parent_run_id=above)


def _looks_on(handler: BaseCallbackHandler) -> bool:
    tracer = isinstance(handler, BaseTracer | AsyncBaseTracer)
    return tracer and not isinstance(handler, LogStreamCallbackHandler)


def _message(result: CascadeResult, run: Run) -> dict[str, Any]:
    """Fields of the answer as a message, in JSON: dollars are floats, exact in the ledger alone."""
    ledger = result.ledger
    told = ("tier", "escalated", "degraded", "abstained", "cached", "confidence", "calibrated")
    booked = ("cost_usd", "saved_usd", "cost_basis", "saved_basis")
    metadata = {
        "model_name": result.tier,
        "finish_reason": None,
        **result.message.response_metadata,  # with stamps of middleware for later turns
        **{name: getattr(result, name) for name in told},
        **{name: getattr(result.decision, name) for name in ("action", "reason")},
        **{name: getattr(ledger, name) for name in booked},
        "unknown_usage": sum(not entry.usage.known for entry in ledger if entry.model),
    }
    metadata = {n: float(v) if isinstance(v, Decimal) else v for n, v in metadata.items()}
    if run.settings.get("top_logprobs") is not None and run.draft and run.draft.logprobs:
        metadata["logprobs"] = {"content": [to_openai(token) for token in run.draft.logprobs]}
    said: dict[str, Any] = {"content": result.answer, "tool_calls": result.message.tool_calls}
    return {**said, "response_metadata": metadata, "usage_metadata": usage_of(ledger)}


def usage_of(entries: Iterable[LedgerEntry]) -> UsageMetadata | None:
    """The tokens of all calls whose usage is known; None when it is of none."""
    known = [entry.usage.metadata for entry in entries if entry.model and entry.usage.known]
    return reduce(add_usage, known) if known else None


# --- decision models

CORRECT = Noul(instructions="Is the last answer in this conversation correct and complete?")


class AskedDecisionModel(Model):
    """A decision model with one question, as a model whose completions are its answers in JSON."""

    def __init__(self, decides: Any, question: Noul | Choice | Score) -> None:
        package = type(decides).__module__.partition(".")[0]
        self.provider, self.model = package.removeprefix("langchain_"), decides.model
        self._question: Any = question
        self._decides, self._sends_once = sending_once(decides)

    async def _complete(self, request: Request) -> Completion:
        state, question = "state", self._question
        if not isinstance(self._decides, core.BaseDecisionModel):
            from langchain_openai import decisions  # noqa: PLC0415 - it has kinds of its own

            text, criteria, state = question.instructions, question.criteria, "input"
            text = text if isinstance(text, str) else json.dumps(text)
            kind = {"choice": "Choice", "score": "Score"}.get(question.type, "Predicate")
            own = {"Choice": {"choices": criteria}, "Score": {"levels": criteria}}.get(kind, {})
            question = getattr(decisions, kind)(instructions=text, **own)
        asked: Any = {state: list(request.messages), "questions": {"answer": question}}
        with Caller(self.name, "its server").named():
            # Its clients have one home, as those of chat models.
            response = await on_portal(self._decides.ainvoke(asked, QUIET))
        told: dict[str, Any] = dict(response.usage or ()) if self._sends_once else {}
        usage = Usage(**{name: told.get(name) for name in ("input_tokens", "output_tokens")})
        said = response.answers["answer"].model_dump_json()
        return Completion(said, response.model, usage, finish_reason="stop")


class SignalVerifier(Signal):
    """A signal of one call, with a model of its own, as the verifier of a cascade: the policy
    decides by the probability. Where that cannot be had, the question escalates."""

    @cached_property
    def _tier(self) -> OpenTier:
        return open_tier(self.model, self.name)

    async def __call__(
        self, question: str, answer: str, runtime: CascadeRuntime, *, run: Run
    ) -> Verdict:
        """Its verdict on the draft."""
        assert run.draft is not None
        asked = Asked(run.messages, run.draft, runtime)
        (probe,) = self.probes(asked, ())
        request = to_request(self._tier, probe.messages, Settings())
        try:
            said = await runtime.kernel.ask(Call(run, runtime, "verify", self._tier, request))
        except ModelError as error:
            if not (error.circumstantial or isinstance(error, LocalOnlyError)):
                raise
            return Verdict(accept=False, reason=f"the verifier could not be asked: {error}")
        p = self.score(cast("Any", self.read(asked, [said])))
        why = f"the verifier gave no probability: {said.text[:80]!r}"
        return Verdict(accept=False, reason=why) if p is None else Verdict(confidence=p)


class DecisionSignal(SignalVerifier):
    """Signal of a decision model, which reads the conversation with the draft: a probability,
    missing where the model refuses to answer.

    Args:
        model: a `BaseDecisionModel`, or langchain-openai's `OpenAIDecisions`.
        question: `Noul` gives the probability of yes, `Choice` that of the label `correct`, and
            `Score` its level as a share of the highest.
        tier: options of `Tier`, such as `price` and `local`.

    Raises:
        ConfigurationError: the question gives no probability.
    """

    calls = 1

    def __init__(
        self,
        model: Any,
        question: Noul | Choice | Score = CORRECT,
        *,
        correct: str | None = None,
        name: str = "decision",
        **tier: Any,
    ) -> None:
        labels = question.criteria if isinstance(question, Choice) else {correct: None}
        known = isinstance(model, Runnable) and isinstance(question, Noul | Choice | Score)
        if not known or correct not in labels:
            given = f"DecisionSignal({model!r}, {question!r}, correct={correct!r})"
            way = "give a decision model, not its name, and a Noul, a Score, or a Choice with the"
            raise ConfigurationError(f"{given}: {way} label that stands for a correct draft.")
        self.name, self._correct = name, correct
        self.model = Tier(AskedDecisionModel(model, question), **tier)

    def probes(self, asked: Asked, replies: Sequence[Completion]) -> Sequence[Probe]:
        """The conversation with the draft."""
        return (Probe((*asked.messages, AIMessage(asked.draft.transcript))),)

    def read(self, asked: Asked, replies: Sequence[Completion]) -> dict[str, float]:
        """The probability under the signal's name."""
        match json.loads(replies[0].text):
            case {"noul": p} | {"probability": p}:
                pass
            case {"type": "choice", "probabilities": shares}:
                p = shares[self._correct]
            case {"score": score, "legend": levels}:
                p = score / (len(levels) - 1)
            case _:  # refused
                return {}
        return {self.name: min(1.0, max(0.0, float(p)))}


DecisionVerifier = DecisionSignal


class CascadeDecisionModel(core.BaseDecisionModel):
    """The calibrated verifier of a cascade as a decision model; `model` is its name in traces.

    The first tier drafts an answer to the state, and the confidence in it is the answer: of a
    `Noul` the probability that the draft is correct; of a `Choice`, whose labels stand for the
    tiers from small to large, the tier that the policy would let answer. The large model is not
    asked. What it costs is in the ledger under the node `shadow`, and in `usage`.
    """

    cascade: InstanceOf[Cascade]
    model: str = "cascade"
    _entries: dict[str, list[LedgerEntry]] = PrivateAttr(default_factory=dict)

    @property
    def _provider(self) -> str:
        return "cascade"

    def model_post_init(self, context: Any, /) -> None:
        """Hear what drafts cost."""
        heard, listeners = self._entries, self.cascade.kernel.ledger.listeners
        listeners.append(lambda entry: heard.get(entry.run_id, []).append(entry))

    async def _aclassify(self, state: Any, questions: Any) -> core.ClassifierResponse:
        kernel = self.cascade.kernel
        tiers = [tier.name for tier in kernel.tiers]
        for name, question in questions.items():
            fits = isinstance(question, Choice) and len(question.criteria) == len(tiers)
            if not (fits or isinstance(question, Noul)):
                way = f"a Choice with a label for each tier, small to large ({', '.join(tiers)})"
                raise ConfigurationError(
                    f"the question {name!r}: a cascade answers a Noul, or {way}."
                )
        given = [state] if isinstance(state, str | BaseMessage) else state
        texts = isinstance(given, Sequence) and all(isinstance(m, str | BaseMessage) for m in given)
        asked = given if texts else [HumanMessage(json.dumps(given, default=str))]
        run = kernel.begin(to_messages(asked), kind="shadow")
        runtime, entries = CascadeRuntime(kernel), self._entries.setdefault(run.id, [])
        try:
            await kernel.answer(run, runtime)
            while run.decision is not None and run.decision.action == "observe":
                run.step = "self_check"
                await kernel.answer(run, runtime)
        finally:
            del self._entries[run.id]
        decision, seen = run.decision, run.assessment
        assert decision is not None
        p = None if seen is None else 0.0 if seen.objection else seen.confidence
        if p is None:
            why = (seen and seen.missing) or decision.reason
            raise ModelError(f"there is no confidence in a draft: {why}", model=self.model)
        chosen = 0 if decision.action == "accept" else tiers.index(decision.tier or tiers[1])
        answers: dict[str, Any] = {}
        for name, question in questions.items():
            answers[name] = core.NoulAnswer(type="noul", noul=p)
            if isinstance(question, Choice):
                labels = list(question.criteria)
                shares = dict.fromkeys(labels, 0.0) | {labels[0]: p, labels[chosen or 1]: 1.0 - p}
                best: Any = {"choice": labels[chosen], "confidence": shares[labels[chosen]]}
                answers[name] = core.ChoiceAnswer(type="choice", probabilities=shares, **best)
        told: dict[str, Any] = {"model": self.model, "request_id": run.id}
        return core.ClassifierResponse(answers=answers, usage=usage_of(entries), **told)

    _classify = cast("Any", synchronous(_aclassify))
