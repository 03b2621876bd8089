"""Fallback: another large model where the last tier cannot be had."""

from __future__ import annotations

from dataclasses import replace

from cascade.errors import BadRequestError, DeadlineError, ModelError
from cascade.middleware.base import Ask, CascadeMiddleware, Slot
from cascade.run import Call, Parts, to_request
from cascade.state import Completion
from cascade.tiers import ModelLike, open_tier


class Fallback(CascadeMiddleware):
    """Another model in place of the last tier when that fails for good.

    The result is marked as degraded. Its entry names the model that answered, and earns at most
    its own cost, as an estimate: an owner of that model would have it without a cascade, too.
    """

    slot = Slot.SUBSTITUTES

    def __init__(self, tier: ModelLike, *, name: str = "fallback") -> None:
        self.name = name
        self.tier = open_tier(tier, name)

    def check(self, parts: Parts) -> None:
        """Refuse an agent that would be run on what it, or another, has written."""
        if check := getattr(self.tier.model, "check", None):
            check(parts)

    async def wrap_model_call(self, call: Call, handler: Ask) -> Completion:
        """Ask the last tier, then the other model."""
        try:
            return await handler(call)
        except ModelError as error:
            beyond = isinstance(error, BadRequestError | DeadlineError) or not error.circumstantial
            if call.node != "expert" or beyond:
                raise
        request = to_request(self.tier, call.request.messages, call.run.settings)
        return await handler(replace(call, tier=self.tier, request=request))

    async def aclose(self) -> None:
        """Close the other model."""
        await self.tier.model.aclose()
