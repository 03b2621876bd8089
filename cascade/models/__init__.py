"""One module for each way to reach a model, behind the interface `Model`.

`open_model("provider:name")` is the door; `Request` goes in, `Completion` comes out. The adapters
are imported when a model of theirs is opened, not before.
"""

from __future__ import annotations

from cascade.models.base import Chunk, JsonSchema, Model, Request
from cascade.models.recording import Recorder, ReplayModel, request_key
from cascade.models.registry import open_model

__all__ = [
    "Chunk",
    "JsonSchema",
    "Model",
    "Recorder",
    "ReplayModel",
    "Request",
    "open_model",
    "request_key",
]
