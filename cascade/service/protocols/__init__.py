"""The protocols that clients speak: OpenAI's chat completions and responses, and Ollama's own."""

from __future__ import annotations

from fastapi import APIRouter

from cascade.service.protocols import chat, models, ollama, responses

__all__ = ["routers"]


def routers() -> tuple[APIRouter, ...]:
    """The routes of all protocols."""
    return (chat.router, models.router, responses.router, ollama.router)
