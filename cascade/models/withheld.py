"""A model that must not be asked, where questions stay on this machine."""

from __future__ import annotations

from typing import NoReturn

from cascade.errors import LocalOnlyError
from cascade.models.base import Model, Request


class WithheldModel(Model):
    """Placeholder of a model that requests must not reach: no address, no key.

    Names and prices go on to mean the same, so that a decision to escalate is still explained.
    """

    real = False

    def __init__(self, model: Model) -> None:
        self.provider, self.model = model.provider, model.model
        self.returns_logprobs, self.forces_tools = model.returns_logprobs, model.forces_tools

    async def _complete(self, request: Request) -> NoReturn:
        raise LocalOnlyError(
            f"{self.name} was not asked: it is not on this machine, and the cascade is local only.",
            model=self.name,
        )
