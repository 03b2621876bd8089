"""One module per way to reach a model, behind the interface `Model`.

`open_model("provider:name")` is the door; `Request` goes in, `Completion` comes out.
"""

from __future__ import annotations

from cascade.models.base import Chunk, JsonSchema, Model, Request

__all__ = ["Chunk", "JsonSchema", "Model", "Request"]
