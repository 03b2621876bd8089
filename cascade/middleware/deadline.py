"""Deadline: no run takes longer than it is allowed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from cascade._numbers import to_number
from cascade.errors import DeadlineError
from cascade.middleware.base import Ask, CascadeMiddleware, Decide, Slot
from cascade.policies.base import Situation
from cascade.run import Call, Run
from cascade.state import Completion, Decision

WAY_BACK = 0.02
"""Of the time that a large call may take, kept back for answering without it."""

LATENCY_WEIGHT = 0.2
"""Of the newest call in a tier's expected latency: it follows a change within about ten calls."""


class Deadline(CascadeMiddleware):
    """Deadline of a run, which bounds all its calls, with their retries and waits.

    What would be escalated is accepted where the next tier is known to take longer than that; a
    call that does not end in time fails with `DeadlineError`, and the expert returns the draft,
    marked as degraded. Audits and shadow runs keep no deadline.

    Args:
        seconds: from the beginning of a run to its answer; None for none, until a question brings
            its own (`deadline` of its settings).

    Raises:
        ConfigurationError: the seconds are not above 0.
    """

    slot = Slot.TIME

    def __init__(self, seconds: float | None = None, *, name: str = "deadline") -> None:
        self.name = name
        self.seconds = None if seconds is None else to_number("deadline", seconds, above=0)
        self._seen_s: dict[str, float] = {}

    def left_s(self, run: Run) -> float | None:
        """Seconds until the deadline of a run, negative when it has passed; None without one."""
        seconds = run.settings.get("deadline") or self.seconds
        if seconds is None or run.kind != "answer":
            return None
        # A clock that was set back, here or where the run began, gives no run more time than that.
        return min(seconds, run.begun_at + seconds - time.time())

    async def wrap_model_call(self, call: Call, handler: Ask) -> Completion:
        """Give the call no more time than is left, else a `DeadlineError`."""
        started, left, model = time.perf_counter(), self.left_s(call.run), call.tier.model.name
        if left is not None:
            if left <= 0:
                raise DeadlineError(
                    f"{model} was not asked: the deadline has passed.", model=model, billed=False
                )
            left *= 1 - WAY_BACK * (call.node == "expert")
            timeout_s = min(left, call.request.timeout_s or left)
            call = replace(call, request=replace(call.request, timeout_s=timeout_s))
        limit = asyncio.timeout(left)
        try:
            async with limit:
                completion = await handler(call)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise DeadlineError(
                f"{model} did not answer before the deadline, {left:.2f} s after it was asked.",
                model=model,
                billed=None,
            ) from error
        if call.node in ("draft", "expert") and not completion.cached:
            took, name = time.perf_counter() - started, call.tier.name
            before = self._seen_s.get(name, took)
            self._seen_s[name] = before + LATENCY_WEIGHT * (took - before)
        return completion

    def wrap_decision(self, run: Run, situation: Situation, handler: Decide) -> Decision:
        """Accept what would be escalated where the next tier cannot answer in time."""
        decision, left = handler(situation), self.left_s(run)
        if left is None or situation.last or decision.action not in ("escalate", "observe"):
            return decision
        if situation.assessment.objection is not None or not situation.above:
            return decision
        needed = self._seen_s.get(decision.tier or situation.above[0].tier, 0.0)
        if left > needed:
            return decision
        reason = f"{decision.reason}; but {max(0.0, left):.2f} s are left"
        if needed:
            reason += f" and escalating takes {needed:.2f} s"
        update = {"action": "accept", "tier": None, "once": True, "reason": reason}
        return decision.model_copy(update=update)
