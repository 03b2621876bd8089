"""Fakes for tests of what is built on the cascade: no network, no weights, no surprises.

model = ScriptedModel({"Capital of France?": reply("Paris", probability=0.95)})
with forbid_real_requests():
    result = Cascade(small=model, large=other).invoke("Capital of France?")
"""

from __future__ import annotations

from cascade.testing.guard import forbid_real_requests
from cascade.testing.scripted import ScriptedModel, reply

__all__ = ["ScriptedModel", "forbid_real_requests", "reply"]
