"""What becomes of a question whose large model cannot be had: an order of steps, as data.

Cascade(…, fallback=(Tier("openai:other-large"), "draft", Queue(seconds=30), "ask", "fail"))
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal, TypeAlias, get_args

from langchain_core.language_models import BaseChatModel

from cascade.agents.border import LocalOnly, read_local_only
from cascade.errors import BadRequestError, ConfigurationError, DeadlineError, ModelError
from cascade.models import Model
from cascade.tiers import ModelLike, OpenTier, Tier, open_tier

Word = Literal["draft", "queue", "ask", "fail"]
"""The steps that need no settings: the best usable draft, marked as degraded; waiting as long as
the deadline allows; a person; the error."""

WORDS: tuple[str, ...] = get_args(Word)

EVERY_S, MOST = 1.0, 100
"""A model that is back is found within a second; so many questions may wait for that at a time."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A step of `fallback`: wait until the large model is back.

    While a question waits, its caller does too. One of those that wait tries at a time; once it is
    answered, all others try at once.

    Args:
        seconds: longest wait; None: as long as the deadline leaves time to answer.
        every: seconds between two tries. A provider that says when to come back is asked then, and
            so is one that is left alone by its circuit breaker.
        most: questions that wait at a time; for one more, the next step is taken.

    Raises:
        ConfigurationError: a number is not above 0.
    """

    seconds: float | None = None
    every: float = EVERY_S
    most: int = MOST

    def __post_init__(self) -> None:
        for name in ("seconds", "every"):
            value = getattr(self, name)
            if value is not None and not _is_above_0(value):
                raise ConfigurationError(f"Queue({name}={value!r}): seconds, above 0.")
        if isinstance(self.most, bool) or not isinstance(self.most, int) or self.most < 1:
            raise ConfigurationError(f"Queue(most={self.most!r}): questions that wait, 1 or more.")


Step: TypeAlias = Word | Queue | ModelLike
"""What may be given as a step; a model is another large one, which answers instead."""

Given: TypeAlias = Step | Sequence[Step]
"""What `Cascade(fallback=…)` takes."""


@dataclass(slots=True)
class Waiting:
    """A place to wait, shared by all questions of a cascade, in whatever loop or thread they are.

    Args:
        queue: its bounds.
    """

    queue: Queue
    n: int = field(default=0, init=False)
    _back_at: float = field(default=-math.inf, init=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)
    _trying: Lock = field(default_factory=Lock, init=False, repr=False)

    @contextmanager
    def place(self) -> Generator[bool]:
        """A place to wait in, if there is one."""
        with self._lock:
            free = self.n < self.queue.most
            self.n += free
        try:
            yield free
        finally:
            with self._lock:
                self.n -= free

    @contextmanager
    def turn(self, since: float) -> Generator[bool]:
        """Whether to try now: nobody else does, or somebody was answered since then."""
        if self._back_at >= since:
            yield True
            return
        mine = self._trying.acquire(blocking=False)
        try:
            yield mine
        finally:
            if mine:
                self._trying.release()

    def is_back(self) -> None:
        """Somebody was answered."""
        self._back_at = time.monotonic()


Opened: TypeAlias = OpenTier | Waiting | Literal["draft", "ask", "fail"]
"""A step that is ready to be taken."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """An order of steps, ready to be taken; after the last one the error is raised.

    Attributes:
        steps: other large models, places to wait, and the words `draft`, `ask` and `fail`.
    """

    steps: tuple[Opened, ...] = ("draft",)

    @property
    def tiers(self) -> tuple[OpenTier, ...]:
        """The other large models."""
        return tuple(step for step in self.steps if isinstance(step, OpenTier))

    @property
    def asks(self) -> bool:
        """Whether a person may be asked."""
        return "ask" in self.steps

    @property
    def ends_with_person(self) -> bool:
        """Whether no step after the person may lead to an answer."""
        return [step for step in self.steps if step != "fail"][-1:] == ["ask"]


def may_pass(error: ModelError) -> bool:
    """Whether waiting may help: not with a wrong key, a refused request or a deadline."""
    return error.circumstantial and not isinstance(error, BadRequestError | DeadlineError)


def to_fallback(
    given: Given | None,
    tiers: Sequence[OpenTier],
    deadline: float | None = None,
    local_only: LocalOnly = False,
) -> Fallback:
    """The order that was asked for; by default the best usable draft, else the error.

    Args:
        given: as `Cascade` takes it.
        tiers: of the cascade, from small to large.
        deadline: seconds for a whole run, if there is one.
        local_only: as `Cascade` takes it.

    Raises:
        ConfigurationError: a step cannot be taken; the message says why, and what can.
    """
    if given is None:
        return Fallback()
    steps = [given] if isinstance(given, str) or not isinstance(given, Sequence) else list(given)
    if not steps:
        raise ConfigurationError(f"fallback={given!r}: give one step or more; {_allowed()}")
    local = read_local_only(local_only, "local_only") is not None
    if local and not tiers[-1].local:
        raise ConfigurationError(
            f"fallback={given!r} is for when {tiers[-1].name} is down, which there is no way to "
            "here. Leave it out."
        )
    _check_order(steps)
    opened: tuple[Opened, ...] = tuple(_open(step, tiers, deadline) for step in steps)
    made = Fallback(opened)
    _check_names(made, tiers)
    for tier in made.tiers:
        if local and not tier.local:
            raise ConfigurationError(
                f"local_only: fallback asks {tier.model.name}, which is not on this machine. Leave "
                "it out, give a model that is, or say Tier(…, local=True)."
            )
    return made


def _check_order(steps: Sequence[object]) -> None:
    words = [_word(step) for step in steps]
    for word in WORDS:
        if words.count(word) > 1:
            raise ConfigurationError(f"fallback names {word!r} twice: a second time never helps.")
    if "fail" in words[:-1]:
        after = words[words.index("fail") + 1]
        raise ConfigurationError(
            f"fallback has {after!r} after 'fail', which raises the error: put 'fail' at the end."
        )


def _word(step: object) -> object:
    return "queue" if isinstance(step, Queue) else step


def _open(step: object, tiers: Sequence[OpenTier], deadline: float | None) -> Opened:
    if step in ("draft", "ask") and len(tiers) < 2:
        raise ConfigurationError(
            f"fallback={step!r} needs a draft, and there is only one tier. Leave it out."
        )
    word: Literal["draft", "ask", "fail"]
    for word in ("draft", "ask", "fail"):
        if step == word:
            return word
    if isinstance(step, Queue) or step == "queue":
        queue = step if isinstance(step, Queue) else Queue()
        if queue.seconds is None and deadline is None:
            raise ConfigurationError(
                "fallback='queue' could wait for ever: give Queue(seconds=30), or deadline=…."
            )
        return Waiting(queue)
    if isinstance(step, Tier | BaseChatModel | Model) or (isinstance(step, str) and ":" in step):
        return open_tier(step)
    raise ConfigurationError(f"fallback has the step {step!r}: {_allowed()}")


def _allowed() -> str:
    return (
        "a step is 'draft', 'queue' or Queue(seconds=…), 'ask', 'fail', or another large model, "
        "Tier('openai:…')."
    )


def _check_names(made: Fallback, tiers: Sequence[OpenTier]) -> None:
    seen = {tier.name for tier in tiers}
    for tier in made.tiers:
        if tier.name in seen:
            raise ConfigurationError(
                f"fallback: another tier is called {tier.name!r} already. Give "
                f"Tier({tier.model.name!r}, name='…')."
            )
        seen.add(tier.name)


def _is_above_0(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and value > 0
