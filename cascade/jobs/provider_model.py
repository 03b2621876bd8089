"""A large model that is asked by the provider's batch API: its answers come later, from a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from cascade.errors import CascadeError, ModelError
from cascade.models import Model, Request
from cascade.models.base import Sent
from cascade.models.openai import OpenAIModel
from cascade.state import Completion

__all__ = ["ByBatch", "Delivery", "NotDeliveredError", "UnreadableAnswerError", "delivered"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A reply that has come with a batch.

    Attributes:
        body: of the reply, as decoded JSON.
        sent: the call that it answers.
        latency_ms: from the creation of the batch to its end.
    """

    body: Any
    sent: Sent
    latency_ms: float


class NotDeliveredError(CascadeError):
    """The answer is not there yet; `body` is the request that a batch has to hold for it."""

    def __init__(self, model: str, body: Mapping[str, Any]) -> None:
        super().__init__(f"{model} is asked by batch, and its answer has not come yet.")
        self.body = body


class UnreadableAnswerError(ModelError):
    """A reply in a batch that is no answer. It was paid for, and comes no other way."""

    retryable = False


_delivery: ContextVar[Delivery | None] = ContextVar("delivery", default=None)


@contextmanager
def delivered(delivery: Delivery) -> Iterator[None]:
    """Within it, the large model's answer is this one."""
    token = _delivery.set(delivery)
    try:
        yield
    finally:
        _delivery.reset(token)


class ByBatch(Model):
    """Says what a model would be asked, and gives the answers that have come.

    Args:
        model: which one; it is never asked from here.
    """

    def __init__(self, model: OpenAIModel) -> None:
        self.live = model
        self.provider, self.model, self.local = model.provider, model.model, model.local
        self.returns_logprobs, self.server = model.returns_logprobs, model.server

    @property
    def secrets(self) -> tuple[str, ...]:
        """Those of the model."""
        return self.live.secrets

    @property
    def sent(self) -> Sent | None:
        """The call that the answer was delivered to."""
        delivery = _delivery.get()
        return None if delivery is None else delivery.sent

    async def _complete(self, request: Request) -> Completion:
        delivery = _delivery.get()
        if delivery is None:
            raise NotDeliveredError(self.name, self.live.payload(request))
        try:
            completion = self.live.read(delivery.body)
        except ModelError as error:
            raise UnreadableAnswerError(str(error), model=self.name, billed=None) from error
        return replace(completion, latency_ms=delivery.latency_ms)

    async def digest(self) -> str | None:
        """That of the model."""
        return await self.live.digest()

    async def aclose(self) -> None:
        """Give back what the model holds."""
        await self.live.aclose()
