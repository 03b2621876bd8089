"""What the OpenAPI document says of errors."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

Documented = dict[int | str, dict[str, Any]]
"""As FastAPI takes the responses of a route."""

_ABOUT: dict[int | str, str] = {
    "default": "Any other error.",
    400: "Something in the request cannot be obeyed; the error names it.",
    401: "No key, or a wrong one.",
    402: "The budget of the key is used up.",
    403: "The key may not do this, or the question must not leave this machine.",
    404: "There is no such model.",
    429: "Too many requests; `Retry-After` says when to try again.",
    500: "The service failed.",
    502: "A tier failed.",
    503: "The service is shutting down.",
    504: "The deadline has passed.",
}

EVENTS: dict[str, Any] = {
    "text/event-stream": {
        "itemSchema": {
            "type": "object",
            "properties": {
                "event": {"type": "string"},
                "data": {"type": "string", "description": "JSON, or `[DONE]` at the end."},
            },
            "required": ["data"],
        }
    }
}
"""The content of a stream of server-sent events. A `schema` would be that of each event, too."""

LISTING: tuple[int | str, ...] = ("default", 401, 403, 429, 503)
"""Errors of routes that ask no tier."""


def answers(form: type[BaseModel], pieces: str) -> Documented:
    """The answer of a route that streams it, if asked to, as server-sent events of such pieces."""
    said = f"The answer, or with `stream` its {pieces} as server-sent events."
    return {200: {"model": form, "description": said, "content": EVENTS}}


def errors(form: type[BaseModel], *statuses: int | str) -> Documented:
    """The errors of a route in the form of its protocol; without statuses all of them."""
    return {status: {"model": form, "description": _ABOUT[status]} for status in statuses or _ABOUT}
