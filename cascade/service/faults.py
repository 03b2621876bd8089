"""Errors as clients are told: a status, words, and nothing of the servers behind the gateway."""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cascade import errors
from cascade.ledger.entries import without_places

logger = logging.getLogger("cascade")


@dataclass(eq=False)
class ServiceError(Exception):
    """A request that is answered with an error: what is wrong and the way out, never a key or a
    prompt; a `code` for programs; the `param` of the request that is wrong; seconds after which it
    may come again."""

    status: int
    message: str
    code: str = "invalid_value"
    _: KW_ONLY
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    retry_after: float | None = None

    def __post_init__(self) -> None:
        super().__init__(self.message)
        if self.retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))

    def body(self, path: str) -> dict[str, Any]:
        """The body in the form of the protocol that is spoken at a path."""
        if path.startswith("/api/"):
            return {"error": self.message}
        openai_type, anthropic_type = _TYPES.get(self.status, ("server_error", "api_error"))
        if path.startswith("/v1/messages"):
            return {"type": "error", "error": {"type": anthropic_type, "message": self.message}}
        said = {"message": self.message, "type": openai_type}
        return {"error": {**said, "param": self.param, "code": self.code}}


_INVALID = "invalid_request_error"
_TYPES = {
    **dict.fromkeys((400, 405, 409, 415, 422), (_INVALID, _INVALID)),
    401: ("authentication_error", "authentication_error"),
    402: ("insufficient_quota", "billing_error"),
    403: ("permission_error", "permission_error"),
    404: (_INVALID, "not_found_error"),
    413: (_INVALID, "request_too_large"),
    429: ("rate_limit_error", "rate_limit_error"),
    502: ("upstream_error", "api_error"),
    503: ("server_error", "overloaded_error"),
    504: ("timeout_error", "timeout_error"),
}
"""Type of an error in the words of OpenAI and of Anthropic, by status."""


def place_in(given: Any, error: ErrorDetails) -> tuple[str | int, ...]:
    """Place of the value that an error is about, without the kinds that it may be of."""
    place, missing = error["loc"], error["type"] == "missing"
    for n, part in enumerate(place[:-1] if missing else place):
        try:
            given = given[part]
        except (LookupError, TypeError):
            return (*place[:n], place[-1]) if missing else place[:n]
    return place


def invalid(error: ValidationError, given: Any) -> ServiceError:
    """The first thing that is wrong in what a client sent."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(map(str, place_in(given, first)))
    words = first["msg"].removeprefix("Value error, ")
    said = f"{place}: {words}" if place else words
    return ServiceError(400, f"{said}."[:2_000], param=place or None)


_FAULTS: tuple[tuple[type[errors.CascadeError], int, str, str], ...] = (
    (errors.InputError, 400, "invalid_input", ""),
    (errors.ConfigurationError, 400, "invalid_value", ""),
    (errors.AuthenticationError, 502, "upstream_failed", "refused the key"),
    (errors.ModelNotFoundError, 502, "upstream_failed", "not found"),
    (errors.ContextLengthError, 400, "context_length_exceeded", "prompt too long"),
    (errors.BadRequestError, 400, "refused_by_tier", "refused the request"),
    (errors.RateLimitError, 429, "upstream_rate_limit", "rate limited"),
    (errors.LocalOnlyError, 403, "local_only", "not on this machine"),
    (errors.CircuitOpenError, 503, "tier_unavailable", "left alone after failures"),
    (errors.NotSentError, 503, "tier_unavailable", "not asked"),
    (errors.ModelTimeoutError, 504, "deadline_exceeded", "timed out"),
    (errors.StreamInterruptedError, 502, "upstream_failed", "broke off"),
    (errors.MalformedResponseError, 502, "upstream_failed", "unreadable answer"),
    (errors.ModelUnavailableError, 502, "upstream_failed", "unavailable"),
    (errors.ModelError, 502, "upstream_failed", "failed"),
    (errors.RecordingMissError, 404, "not_recorded", "no recording answers this question"),
    (errors.LedgerError, 503, "ledger_unavailable", "the ledger cannot be reached or written"),
    (errors.CascadeError, 500, "cascade_failed", "the service failed"),
)
"""The first kind that fits counts: status, code, and words without servers, else the error's."""


def client_left(error: BaseException) -> bool:
    """True if an error is the end of a request whose client has gone: its task is cancelled."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def kind_of(error: BaseException) -> str:
    """The kind of a failure, in words that name no server."""
    return next((said for kind, *_, said in _FAULTS if isinstance(error, kind)), "") or "failed"


def fault_of(error: BaseException, where: str = "a request") -> ServiceError:
    """Error as a client is told of it; the log has the details, and its run or `where` it was."""
    if isinstance(error, ServiceError):
        return error
    for entry in getattr(error, "ledger", None) or ():
        where = f"run {entry.run_id}"
    if not isinstance(error, errors.CascadeError):
        logger.exception("%s failed", where, exc_info=error)
        return ServiceError(500, "the service failed; its log says more.", "internal_error")
    status, code, words = next(row[1:] for row in _FAULTS if isinstance(error, row[0]))
    if not words or isinstance(error, errors.LocalOnlyError | errors.DeadlineError):
        return ServiceError(status, str(error), code)
    logger.warning("%s: %s: %s", where, type(error).__name__, error)
    if isinstance(error, errors.BadRequestError):  # only the provider's words help to mend it
        return ServiceError(status, without_places(str(error)), code)
    if isinstance(error, errors.ModelError):
        words = f"{error.model}: {words}" + (f" ({error.status})" if error.status else "")
    wait_s = getattr(error, "retry_after", None) or getattr(error, "ready_in_s", None)
    if isinstance(error, errors.RateLimitError | errors.NotSentError):
        wait_s = wait_s or 1
    return ServiceError(status, f"{words}; the service's log says more.", code, retry_after=wait_s)
