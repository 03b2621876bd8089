"""Fakes for tests of what is built on the cascade: no network, no weights, no surprises.

model = ScriptedModel({"Capital of France?": reply("Paris", probability=0.95)})
with forbid_real_requests():
    result = Cascade(small=model, large=other).invoke("Capital of France?")
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cascade.models.base import guard
from cascade.testing.scripted import ScriptedModel, reply

__all__ = ["ScriptedModel", "forbid_real_requests", "reply"]


@contextmanager
def forbid_real_requests() -> Iterator[None]:
    """Stop every request to a real model in this process with `RealRequestForbiddenError`; fakes
    and recordings still answer."""
    before, guard.forbidden = guard.forbidden, True
    try:
        yield
    finally:
        guard.forbidden = before
