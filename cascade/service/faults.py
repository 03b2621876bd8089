"""What a client is told when a request fails: a status, words, and no secret."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cascade.errors import (
    CascadeError,
    InputError,
    LedgerError,
    LocalOnlyError,
    ModelError,
    ModelTimeoutError,
    NotSentError,
    RateLimitError,
    UnknownRunError,
)
from cascade.service.telling import told

RETRY_AFTER_S = 1
"""What a client is told to wait where nobody knows better."""

CLIENT_GONE = 499
"""What nginx calls a client that has closed the connection."""


class ServiceError(Exception):
    """A request that is answered with an error; each protocol shows it in its own shape.

    Args:
        status: of HTTP.
        message: what is wrong and the way out. Never a key, never a prompt.
        type: the class of the error in OpenAI's words, such as `invalid_request_error`.
        code: a word for programs, such as `model_not_found`.
        param: the field of the request that is wrong.
        headers: of the answer, such as `Retry-After`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        type: str = "invalid_request_error",  # noqa: A002 - OpenAI's name
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.code = code
        self.param = param
        self.headers: dict[str, str] = dict(headers or {})

    def body(self, path: str) -> dict[str, Any]:
        """The body in the shape of the protocol that is spoken at a path."""
        return self.ollama() if path.startswith("/api/") else self.openai()

    def openai(self) -> dict[str, Any]:
        """The body in OpenAI's shape."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def ollama(self) -> dict[str, Any]:
        """The body in Ollama's shape."""
        return {"error": self.message}


_FAULTS: tuple[tuple[type[CascadeError], int, str, str], ...] = (
    (UnknownRunError, 404, "invalid_request_error", "run_not_found"),
    (InputError, 400, "invalid_request_error", "invalid_input"),
    (RateLimitError, 429, "rate_limit_error", "upstream_rate_limit"),
    (LocalOnlyError, 403, "permission_error", "local_only"),
    (NotSentError, 503, "server_error", "tier_unavailable"),
    (ModelTimeoutError, 504, "timeout_error", "deadline_exceeded"),
    (ModelError, 502, "upstream_error", "upstream_failed"),
    (LedgerError, 503, "server_error", "ledger_unavailable"),
    (CascadeError, 500, "server_error", "cascade_failed"),
)
"""Status, type and code of each kind of error; the first that fits. A `DeadlineError` is a
`ModelTimeoutError`."""


def fault_of(error: Exception, where: str = "a run") -> ServiceError:
    """What a client is told of an error of a run; `where` it was is for the log."""
    if isinstance(error, ServiceError):
        return error
    for kind, status, type_, code in _FAULTS:
        if isinstance(error, kind):
            words = told(error, where)
            return ServiceError(status, words, type_, code, headers=_retry_after(error))
    return ServiceError(
        500, "the service failed; its log says more.", "server_error", "internal_error"
    )


def _retry_after(error: Exception) -> dict[str, str]:
    if isinstance(error, RateLimitError):
        known_s = error.retry_after
    elif isinstance(error, NotSentError):
        known_s = error.ready_in_s
    else:
        return {}
    wait_s = RETRY_AFTER_S if known_s is None else math.ceil(known_s)
    return {"Retry-After": str(max(RETRY_AFTER_S, wait_s))}
