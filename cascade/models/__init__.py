"""One module for each way to reach a model, behind the interface `Model`.

`open_model("provider:name")` is the door; `Request` goes in, `Completion` comes out. The adapters
are imported when a model of theirs is opened, not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cascade.models.base import Chunk, JsonSchema, Model, Request
from cascade.models.registry import open_model

if TYPE_CHECKING:
    from cascade.models.recording import Recorder, ReplayModel, request_key

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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cascade.models import recording  # noqa: PLC0415 - few need it

    return getattr(recording, name)
