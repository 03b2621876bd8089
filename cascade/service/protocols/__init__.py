"""The protocols that clients speak: OpenAI's chat completions and responses, and Ollama's own."""

from __future__ import annotations

from fastapi import APIRouter

from cascade.service.protocols.chat import router as _chat
from cascade.service.protocols.models import router as _models
from cascade.service.protocols.ollama import router as _ollama
from cascade.service.protocols.responses import router as _responses

__all__ = ["routers"]


def routers() -> tuple[APIRouter, ...]:
    """The routes of all protocols."""
    return (_chat, _models, _responses, _ollama)
