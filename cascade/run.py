"""Run: one question on its way. Plain data, JSON between steps, processes and days.

Agents and middleware are functions of a `Run`; what this process adds (a way to ask models, a
stream to emit to, the context of a graph around ours) comes beside it as a `CascadeRuntime`, which
is made anew for each step and never stored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage
from pydantic import ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from pydantic_core import to_json
from typing_extensions import TypedDict  # of typing's own, pydantic makes no schema in 3.11

from cascade.confidence import Signal
from cascade.errors import ConfigurationError, ExtensionError
from cascade.events import Event, Provisional, Retracted, Token
from cascade.ledger.base import LedgerStore
from cascade.ledger.entries import LedgerEntry, LedgerView
from cascade.ledger.ledger import Ledger
from cascade.ledger.outlook import Outlook
from cascade.models.base import Chunk, Request
from cascade.policies.base import Policy, Situation
from cascade.state import Assessment, Completion, Decision
from cascade.tiers import OpenTier

if TYPE_CHECKING:
    from cascade.confidence.calibration import Calibration

Kind = Literal["answer", "audit", "shadow"]
"""Purpose of a run. Background runs (`audit`, `shadow`) earn no baseline and keep no deadline."""

Step = Literal[
    "begin", "router", "draft", "self_check", "verify", "person", "expert", "audit", "end"
]
"""The agent that acts next; `begin` and `end` are the ends of a run."""

Show = Literal["verified", "optimistic", "final"]
"""View of a stream: no word before the decision; drafts at once, as `Provisional`; or the
result alone."""


class Settings(TypedDict, total=False):
    """Settings of one question, which travel with the run. JSON, and no keys.

    `temperature`, `max_tokens` and `timeout_s` override those of the tiers.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)  # type: ignore[misc]

    tools: list[dict[str, Any]]
    """Tools that the answer may call, in OpenAI format."""
    tool_choice: str | None
    """`auto`, `none`, `required` or a tool's name."""
    schema: dict[str, Any] | None
    """JSON schema that the answer must satisfy."""
    stop: list[str]
    temperature: Annotated[float, Field(ge=0)] | None
    max_tokens: Annotated[int, Field(gt=0)] | None
    timeout_s: Annotated[float, Field(gt=0)] | None
    """Seconds for each call."""
    seed: int | None
    top_logprobs: int | None
    """Return log-probabilities of the answer's tokens, with so many alternatives to each."""
    extra: dict[str, Any]
    """Parameters that go to every provider as they are."""
    deadline: Annotated[float, Field(gt=0)] | None
    """Seconds for the whole run."""
    local_only: bool | Literal["answer", "abstain"]
    """Whether no model elsewhere may be asked, and what becomes of the question then."""
    of: str
    """Identity of the question and its cascade, where a graph around ours keeps the run."""
    tags: dict[str, str]
    """Tags of every ledger entry of the run, such as `{"user": "42"}`."""


_SETTINGS = TypeAdapter(Settings)


def read_settings(given: object) -> Settings:
    """Settings of a question; `'0.5'` and NumPy's 5 are read as 0.5 and 5."""
    try:
        return _SETTINGS.validate_python(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name, *path = first["loc"] or ("settings",)
        if isinstance(given, Mapping) and given.get(name) is first["input"]:
            path = []  # what follows names a branch of a union
        place = "".join([str(name), *(f"[{part!r}]" for part in path)])
        raise ConfigurationError(
            f"{place}={first['input']!r}: {first['msg']}. A question is asked with "
            f"{', '.join(sorted({*Settings.__annotations__} - {'of'}))}, response_format."
        ) from error


@dataclass(slots=True)
class Run:
    """One question on its way through the agents.

    Attributes:
        id: of the run; `LedgerEntry.run_id`.
        question_id: id of the last message when the run began. A state whose last message has
            another id, or whose step is `end`, holds a finished or abandoned run.
        tier: index of the tier that answers next.
        begun_at: seconds since 1970; a person's waiting time is added, so that it is no model's.
        paused_at: when it began to wait for a person, in seconds since 1970.
        draft: the last answer; at the end, the answer of the run.
        assessment: what the self-check knows about the draft.
        source: who gave the answer: a tier's name, `person`, or the name of a middleware.
        stopped: why the draft was stopped while it was written, if it was.
        degraded: whether the large model was needed and could not be had.
        has_baseline: whether the large model alone was a choice; else (a question that must stay on
            this machine) nothing is earned by not asking it.
        entries: ledger entries of this run, oldest first.
        notes: what each middleware remembers between its hooks, JSON under its name.
        messages: the conversation; no part of the JSON, since a graph keeps it in a channel of
            its own.
    """

    id: str
    question_id: str
    kind: Kind = "answer"
    settings: Settings = field(default_factory=Settings)
    step: Step = "begin"
    tier: int = 0
    begun_at: float = field(default_factory=time.time)
    paused_at: float | None = None
    draft: Completion | None = None
    assessment: Assessment | None = None
    decision: Decision | None = None
    source: str = ""
    stopped: str | None = None
    degraded: bool = False
    has_baseline: bool = True
    entries: list[LedgerEntry] = field(default_factory=list)
    notes: dict[str, JsonValue] = field(default_factory=dict)
    messages: list[AnyMessage] = field(default_factory=list)

    @property
    def question(self) -> str:
        """Text of the last message."""
        return str(self.messages[-1].text)

    @property
    def signals(self) -> Mapping[str, float]:
        """Signals of the draft that were taken so far."""
        return {} if self.assessment is None else self.assessment.signals

    @property
    def confidence(self) -> float | None:
        """P(the draft is correct), or an uncalibrated score; see `assessment.calibrated`."""
        return None if self.assessment is None else self.assessment.confidence

    @property
    def ruled_out(self) -> bool:
        """True if the draft can be no answer, whatever its confidence."""
        return self.assessment is None or self.assessment.objection is not None

    @property
    def answer(self) -> Completion | None:
        """Answer of a finished run; None where the policy abstained."""
        abstains = self.decision is not None and self.decision.action == "abstain"
        return None if abstains else self.draft

    def earned(self, outlook: Outlook, cost: Decimal | None = Decimal(0)) -> dict[str, Any]:
        """Fields of the entry of a node that cost so much and makes the draft the answer: the
        baseline that it earns, an estimate, since the large model was not asked."""
        if self.kind != "answer" or not self.has_baseline or self.draft is None:
            return {}
        if self.draft.cached:  # the large model alone, behind the same cache, would have had it too
            return {}
        return outlook.earned(self.draft, cost, self.messages)

    def to_message(self) -> AIMessage:
        """The answer of a finished run as a message, empty where it abstained.

        Its `response_metadata` has the stamps of middleware for the rest of the conversation:
        `stamps` of their notes.
        """
        answer = self.answer
        message = AIMessage("") if answer is None else answer.to_message(answer.tier or self.source)
        message.response_metadata["run_id"] = self.id
        for note in self.notes.values():
            if isinstance(note, dict) and isinstance(stamps := note.get("stamps"), dict):
                message.response_metadata |= stamps
        return message

    def to_json(self) -> dict[str, JsonValue]:
        """The run without its messages, as JSON. Log-probabilities are left out once the features
        were taken: 500 tokens of them are 7 kB in each checkpoint."""
        left_out: Any = {"messages": True}
        if self.assessment is not None and self.step != "self_check":
            left_out["draft"] = {"logprobs", "call_logprobs"}
        try:
            kept: dict[str, JsonValue] = _adapter().dump_python(
                self, mode="json", exclude_defaults=True, exclude=left_out
            )
        except ValueError as error:
            whose = [f"run.notes[{name!r}]" for name, note in self.notes.items() if not _json(note)]
            failed = ExtensionError(f"{' and '.join(whose) or 'the run'} is no JSON: {error}")
            failed.ledger = LedgerView(self.entries)
            raise failed from error
        return kept

    @classmethod
    def from_json(cls, kept: Mapping[str, JsonValue], messages: list[AnyMessage]) -> Run:
        """The run that was written down, with its messages."""
        run = _adapter().validate_python(kept)
        run.messages = list(messages)
        return run

    def copy(self, kind: Kind) -> Run:
        """A run of another kind about the same question, which shares nothing mutable with this
        one: background work may go on in another loop. It keeps the notes, by which middleware
        knows, for example, that nothing may leave this machine."""
        return replace(
            self,
            kind=kind,
            settings=Settings(**self.settings),
            entries=[],
            notes=deepcopy(self.notes),
            messages=list(self.messages),
        )


def _json(note: object) -> bool:
    try:
        return bool(to_json(note))
    except ValueError:
        return False


@cache
def _adapter() -> TypeAdapter[Run]:
    """Made when it is needed: the schema of all kinds of messages takes a while."""
    return TypeAdapter(Run)


@dataclass(slots=True)
class Answer:
    """Outcome of a run: the answer, None where the policy abstained, the last decision, and who
    answered: a tier's name, `person`, or the name of a middleware. `degraded` as in `Run`."""

    completion: Completion | None
    decision: Decision | None
    source: str
    degraded: bool = False


Hear = Callable[[Chunk], str | None]
"""Takes a piece of a stream; a text that it returns is the reason to stop the stream."""


@dataclass(slots=True)
class Call:
    """One logical call of a model. Middleware may replace tier, request and on_chunk.

    Attributes:
        node: `draft`, `self_check`, `expert`, `audit`, or the name of a middleware that asks.
        on_chunk: hears each piece of the answer as it comes; the first of each attempt has
            `first`. Without it the answer may come in one piece.
    """

    run: Run
    runtime: CascadeRuntime
    node: str
    tier: OpenTier
    request: Request
    on_chunk: Hear | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts of a kernel.

    Attributes:
        tiers: from small to large.
        signals: that the self-check takes; empty for the cheapest that a tier allows.
        calibrators: by the tier's name.
        judge: the user's verifier, `cascade.agents.verifier.Judge`.
        route: the user's router, `cascade.agents.Route`.
        middleware: instances of `CascadeMiddleware`, in any order.
        settings: of every question that has none of its own.
        holds: whether the calibrators were made for what a question is asked with.
        name: of the cascade, for traces and metrics.
    """

    tiers: tuple[OpenTier, ...]
    policy: Policy
    signals: Sequence[Signal] = ()
    calibrators: Mapping[str, Calibration] = field(default_factory=dict)
    judge: Callable[..., Any] | None = None
    route: Callable[..., Any] | None = None
    middleware: Sequence[Any] = ()
    store: LedgerStore | None = None
    settings: Settings = field(default_factory=Settings)
    holds: Callable[[Settings], bool] = lambda settings: True
    name: str = "cascade"


class Kernel(Protocol):
    """The kernel as agents and middleware see it."""

    parts: Parts
    tiers: tuple[OpenTier, ...]
    policy: Policy
    ledger: Ledger
    outlook: Outlook
    helpers: dict[str, OpenTier]
    """Other models that signals ask, by the signal's name."""

    async def ask(self, call: Call) -> Completion:
        """Ask a model: through all middleware, then the ledger, then the wire.

        Raises:
            ModelError: the call failed; its attempts are in the ledger.
        """
        ...

    def decide(
        self, run: Run, situation: Situation, policy: Callable[[Situation], Decision]
    ) -> Decision:
        """The decision about a draft: the policy's, as middleware leaves it."""
        ...

    async def rehearse(self, run: Run, runtime: CascadeRuntime) -> Decision | None:
        """The decision about a draft by free signals alone. Nothing is asked, booked or shown; None
        where free signals give no decision."""
        ...

    async def answer(self, run: Run, runtime: CascadeRuntime) -> None:
        """Take a run to its end, as the loop does."""
        ...


@dataclass(slots=True)
class CascadeRuntime:
    """This process's part of a run, made by each driver for each step and never stored.

    Attributes:
        emit: takes events for the reader of the stream.
        streams: whether the answer is shown piece by piece; else as a whole.
        context, store: of the graph around ours (its `Runtime`), for the user's own code.
        config: the `RunnableConfig` of the call.
        said: what a person said of the draft, where one was asked.
    """

    kernel: Kernel
    emit: Callable[[Event], None] = lambda event: None
    show: Show = "verified"
    streams: bool = False
    context: Any = None
    store: Any = None
    config: Mapping[str, Any] | None = None
    said: object = None


@dataclass(slots=True)
class Reader:
    """Reader of one answer of a tier: in the end it was shown the answer and nothing else, whatever
    middleware repeated, replaced or masked on the way.

    Attributes:
        runtime: whose stream takes the pieces.
        tier: whose answer it is.
        shown: what was shown of it already.
        piece: kind of event that shows a piece.
    """

    runtime: CascadeRuntime
    tier: str
    shown: str = ""
    piece: type[Token | Provisional] = Token

    def hear(self, chunk: Chunk) -> None:
        """Show a piece as it arrives; the first of another attempt withdraws the rest."""
        if chunk.first:
            self.retract("asked once more")
        self._show(chunk.text)

    def _show(self, text: str) -> None:
        if text:
            self.shown += text
            self.runtime.emit(self.piece(text, self.tier))

    def retract(self, reason: str) -> None:
        """Withdraw what was shown, if anything was."""
        if self.shown:
            self.shown = ""
            self.runtime.emit(Retracted(reason))

    def settle(self, text: str) -> None:
        """Make what was shown equal to the answer."""
        if not text.startswith(self.shown):
            self.retract("replaced by the answer as a whole")
        self._show(text[len(self.shown) :])


def to_request(
    tier: OpenTier, messages: Sequence[BaseMessage], settings: Settings, *, top_logprobs: int = 0
) -> Request:
    """The request that puts a conversation to a tier. Settings of the question override those of
    the tier; log-probabilities, with so many alternatives, are asked for where the tier has them.
    """
    own, wanted = tier.settings, settings.get("top_logprobs")
    logprobs = (top_logprobs > 0 or wanted is not None) and tier.model.returns_logprobs
    temperature, choice = settings.get("temperature"), settings.get("tool_choice")
    tools = settings.get("tools") or []
    if tools and not tier.model.forces_tools and choice not in (None, "auto", "none"):
        # It is offered that one alone, and whether it called it is checked with the draft.
        tools, choice = [t for t in tools if t["function"]["name"] == choice] or tools, None
    return Request(
        messages=tuple(messages),
        max_tokens=settings.get("max_tokens") or own.max_tokens,
        temperature=own.temperature if temperature is None else temperature,
        stop=tuple(settings.get("stop") or ()),
        seed=settings.get("seed"),
        logprobs=logprobs,
        top_logprobs=max(top_logprobs, wanted or 0) if logprobs else 0,
        tools=tuple({"type": "function", "function": tool["function"]} for tool in tools),
        tool_choice=choice,
        schema=settings.get("schema"),
        timeout_s=settings.get("timeout_s") or own.timeout_s,
        extra=settings.get("extra") or {},
    )


def known_cost(entries: list[LedgerEntry], unknown_usd: Decimal = Decimal(0)) -> Decimal:
    """Dollars that entries cost; an unknown cost counts as what is assumed, or `unknown_usd`."""
    total = Decimal(0)
    for entry in entries:
        usd = entry.assumed_usd if entry.cost_usd is None else entry.cost_usd
        total += unknown_usd if usd is None else usd
    return total
