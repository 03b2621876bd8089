"""Middleware: an optional feature of a cascade, in four hooks, and one to look on."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from enum import IntEnum

from cascade.policies.base import Situation
from cascade.run import Answer, Call, CascadeRuntime, Parts, Run
from cascade.state import Completion, Decision
from cascade.tiers import OpenTier

Ask = Callable[[Call], Awaitable[Completion]]
"""The next handler of a call."""

Decide = Callable[[Situation], Decision]
"""The next handler of a decision."""

Advance = Callable[[Run, CascadeRuntime], Awaitable[None]]
"""The next handler of a step."""


class Slot(IntEnum):
    """Place of a middleware, from the outside to the wire.

    Calls and `after_run` pass in this order. `before_run` and `wrap_decision` pass in reverse: what
    stands next to the wire sees a question first, and has the last word on a decision.
    """

    ANSWERS = 1  # answers without a model: caches
    PROMPTS = 2  # changes of what is asked: examples, masking
    STREAMS = 3  # readers of pieces: stopping a hopeless draft
    TIME = 4  # limits over all attempts: deadlines
    SUBSTITUTES = 5  # another tier in place of one that fails
    ATTEMPTS = 6  # repeated attempts
    HEALTH = 7  # what each attempt passes: circuit breakers, rate limits
    GUARDS = 8  # what must never happen: privacy, irreversible tools


class CascadeMiddleware:
    """An optional feature. Each hook may change, repeat or skip what comes next.

    A middleware serves many runs at once, in several event loops and threads: what belongs to one
    run is JSON in `run.notes[self.name]`, what belongs to a conversation is stamped on its
    messages, and what is shared is behind a lock of `threading`.

    Attributes:
        name: unique in a cascade; by default the class's name in snake case.
        slot: where it stands.
    """

    name: str = "cascade_middleware"
    slot: Slot = Slot.PROMPTS

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" not in vars(cls):
            cls.name = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def check(self, parts: Parts) -> None:
        """Refuse a cascade in which this cannot work, by a `ConfigurationError`."""

    async def before_run(self, run: Run, runtime: CascadeRuntime) -> Answer | None:
        """See a question first, or answer it at once; the kernel books the hit. Called again where
        a step is repeated after a crash."""
        return None

    async def wrap_model_call(self, call: Call, handler: Ask) -> Completion:
        """Change, repeat or skip a call. Catch `ModelError` only: LangGraph's interrupts pass as
        exceptions."""
        return await handler(call)

    def wrap_decision(self, run: Run, situation: Situation, handler: Decide) -> Decision:
        """Change a decision. Synchronous and pure, so that it can be replayed; called for the
        answer of the last tier as well (`situation.last`)."""
        return handler(situation)

    async def after_run(self, run: Run, answer: Answer, runtime: CascadeRuntime) -> None:
        """See what a run came to. Called at least once, never for a run that failed; an error here
        is logged, and the answer stands."""

    async def wrap_step(self, run: Run, runtime: CascadeRuntime, handler: Advance) -> None:
        """Look on while one agent works (`run.step`): a run that fails, waits or is cancelled is
        seen here alone. Call the handler once, and raise nothing but what it raises; then
        `run.step` is the next one, `person` where the run waits, or `end`."""
        await handler(run, runtime)

    async def aclose(self) -> None:
        """Finish what is under way and give back what is held; it may be used again."""


def go_to(run: Run, tiers: Sequence[OpenTier], place: int, reason: str) -> bool:
    """Let a larger tier answer at once; False where the question must not leave for it."""
    if run.settings.get("local_only") and not tiers[place].local:
        return False
    run.tier = place
    if place == len(tiers) - 1:  # its answer is no draft: nothing will be decided about it
        run.decision = Decision(action="escalate", reason=reason)
    return True
