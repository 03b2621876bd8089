"""Model by batch: it says what it would be asked, and gives the answers that have come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from cascade.api import Cascade
from cascade.calling import CompositeModel
from cascade.errors import CascadeError, ConfigurationError, ModelError
from cascade.kernel import Kernel
from cascade.ledger.ledger import Attempt, Ledger
from cascade.middleware import Audits, CascadeMiddleware, Deadline, Shadow
from cascade.models.base import Request
from cascade.models.openai import OpenAIModel
from cascade.run import Call
from cascade.state import Completion

if TYPE_CHECKING:
    from openai.types import Batch


class NotDeliveredError(CascadeError):
    """An answer is not there yet; `body` is the request that a batch has to hold for it."""

    def __init__(self, model: str, body: Mapping[str, Any]) -> None:
        super().__init__(f"{model} is asked by batch, and its answer has not come yet.")
        self.body = body


class UnreadableAnswerError(ModelError):
    """A reply in a batch that is no answer. It may be paid for, and comes no other way."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """Reply of a batch to one request: its body, and the batch as it ended."""

    body: Any
    batch: Batch


class ByBatch(CompositeModel):
    """Model that says what it would be asked, and gives the answers that have come.

    Args:
        live: the same model; nothing is asked of it here.

    Attributes:
        delivered: replies by the id of their run.
    """

    def __init__(self, live: OpenAIModel) -> None:
        self.live = live
        self.provider, self.model, self.local = live.provider, live.model, live.local
        self.returns_logprobs, self.server = live.returns_logprobs, live.server
        self.delivered: dict[str, Delivery] = {}

    async def answer(self, call: Call, ledger: Ledger) -> Completion:
        """The answer that has come for a run, with the ledger's entry of its request.

        The entry has the same id however often the answer is taken in.

        Raises:
            NotDeliveredError: none has come.
            UnreadableAnswerError: it cannot be read; its cost is unknown.
        """
        delivery = self.delivered.get(call.run.id)
        if delivery is None:
            raise NotDeliveredError(self.name, self.live.payload(call.request))
        batch, request = delivery.batch, call.request
        attempt = Attempt(
            call.run.id,
            call.node,
            call.tier,
            request.messages,
            request.max_tokens,
            {**(call.run.settings.get("tags") or {}), "batch": batch.id},
            id=f"{call.run.id}-{batch.id}",
            at=datetime.fromtimestamp(batch.created_at, UTC),
        )
        ended_at = batch.completed_at or batch.expired_at or batch.cancelled_at
        waited_s = max(0, (ended_at or batch.created_at) - batch.created_at)
        async with ledger.attempt(attempt):
            try:
                completion = self.live.read(delivery.body)
            except ModelError as error:
                raise UnreadableAnswerError(str(error), model=self.name, billed=None) from error
            attempt.completion = replace(completion, latency_ms=waited_s * 1000.0)
        return attempt.completion

    async def _complete(self, request: Request) -> NoReturn:
        raise NotDeliveredError(self.name, self.live.payload(request))

    async def digest(self) -> str | None:
        """That of the live model."""
        return await self.live.digest()


def batched(cascade: Cascade) -> Kernel:
    """The kernel of a cascade whose largest model is asked by batch, at the price of that.

    Raises:
        ConfigurationError: the model has no batch API, no price for it, or there is middleware that
            needs its answers at once.
    """
    last, parts = cascade.tiers[-1], cascade.kernel.parts
    if not isinstance(last.model, OpenAIModel):
        raise ConfigurationError(
            f"{last.model.name} cannot be asked by batch: that takes an openai: model that may be "
            "asked, on a server with OpenAI's Batch API (/v1/files, /v1/batches)."
        )
    for one in cascade.kernel.middleware:
        why = _needs_it_at_once(one)
        if why is not None:
            raise ConfigurationError(
                f"{one.name} and a large model by batch exclude each other: {why}. Leave one of "
                "them out."
            )
    tier = replace(last, model=ByBatch(last.model), pricing=last.pricing.by_batch())
    return Kernel(replace(parts, tiers=(*parts.tiers[:-1], tier)))


def _needs_it_at_once(one: CascadeMiddleware) -> str | None:
    """Why a middleware needs the answer of the large model at once; None where it does not."""
    if isinstance(one, Deadline) and one.seconds is not None:
        return "a batch takes up to a day"
    if isinstance(one, Audits | Shadow):
        return "it asks the large model at once"
    return None
