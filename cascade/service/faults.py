"""Errors as clients are told: a status, words, and nothing of the servers behind the gateway."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from cascade.errors import (
    AuthenticationError,
    BadRequestError,
    CascadeError,
    CircuitOpenError,
    ConfigurationError,
    ContextLengthError,
    DeadlineError,
    InputError,
    LedgerError,
    LocalOnlyError,
    MalformedResponseError,
    ModelError,
    ModelNotFoundError,
    ModelTimeoutError,
    ModelUnavailableError,
    NotSentError,
    RateLimitError,
    StreamInterruptedError,
    UnknownRunError,
)

logger = logging.getLogger("cascade")

CLIENT_GONE = 499
"""nginx's status for a client that closed the connection."""

Protocol = Literal["openai", "anthropic", "ollama"]


def protocol_of(path: str) -> Protocol:
    """The protocol that is spoken at a path."""
    if path.startswith("/api/"):
        return "ollama"
    return "anthropic" if path.startswith("/v1/messages") else "openai"


class ServiceError(Exception):
    """A request that is answered with an error; each protocol shows it in its own form.

    Args:
        status: of HTTP.
        message: what is wrong and the way out. Never a key, never a prompt.
        code: a word for programs, such as `model_not_found`.
        param: the field of the request that is wrong.
        headers: of the answer, such as `Retry-After`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str = "invalid_value",
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    def body(self, protocol: Protocol) -> dict[str, Any]:
        """The body in the form of a protocol."""
        if protocol == "ollama":
            return {"error": self.message}
        if protocol == "anthropic":
            kind = _ANTHROPIC.get(self.status, "api_error")
            return {"type": "error", "error": {"type": kind, "message": self.message}}
        kind = _OPENAI.get(self.status, "server_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


_OPENAI = {
    **dict.fromkeys((400, 404, 405, 409, 413, 415, 422), "invalid_request_error"),
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    429: "rate_limit_error",
    502: "upstream_error",
    504: "timeout_error",
}
_ANTHROPIC = {
    **dict.fromkeys((400, 405, 409, 415, 422), "invalid_request_error"),
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}

_FAULTS: tuple[tuple[type[CascadeError], int, str], ...] = (
    (UnknownRunError, 404, "run_not_found"),
    (InputError, 400, "invalid_input"),
    (ConfigurationError, 400, "invalid_value"),
    (ContextLengthError, 400, "context_length_exceeded"),
    (BadRequestError, 400, "refused_by_tier"),
    (RateLimitError, 429, "upstream_rate_limit"),
    (LocalOnlyError, 403, "local_only"),
    (NotSentError, 503, "tier_unavailable"),
    (ModelTimeoutError, 504, "deadline_exceeded"),
    (ModelError, 502, "upstream_failed"),
    (LedgerError, 503, "ledger_unavailable"),
    (CascadeError, 500, "cascade_failed"),
)
"""Status and code of each kind of error; the first that fits."""

_KINDS: tuple[tuple[type[ModelError], str], ...] = (
    (AuthenticationError, "refused the key"),
    (ModelNotFoundError, "not found"),
    (ContextLengthError, "prompt too long"),
    (BadRequestError, "refused the request"),
    (RateLimitError, "rate limited"),
    (CircuitOpenError, "left alone after failures"),
    (NotSentError, "not asked"),
    (DeadlineError, "no time left"),
    (ModelTimeoutError, "timed out"),
    (StreamInterruptedError, "broke off"),
    (LocalOnlyError, "must not be asked"),
    (MalformedResponseError, "unreadable answer"),
    (ModelUnavailableError, "unavailable"),
)
"""Kinds of failures of a tier; the first that fits."""


def kind_of(error: BaseException) -> str:
    """The kind of a failure, in words that name no server."""
    return next((said for kind, said in _KINDS if isinstance(error, kind)), "failed")


def fault_of(error: BaseException, where: str = "a request") -> ServiceError:
    """What a client is told of an error; the log has the details.

    Args:
        error: that a request ended with.
        where: it happened, such as the run's id, for the log.
    """
    if isinstance(error, ServiceError):
        return error
    for kind, status, code in _FAULTS:
        if isinstance(error, kind):
            return ServiceError(status, _told(error, where), code, headers=_retry_after(error))
    logger.exception("%s failed", where, exc_info=error)
    return ServiceError(500, "the service failed; its log says more.", "internal_error")


def _told(error: BaseException, where: str) -> str:
    if isinstance(error, InputError | ConfigurationError | LocalOnlyError | DeadlineError):
        return str(error)
    logger.warning("%s: %s: %s", where, type(error).__name__, error)
    if isinstance(error, BadRequestError):  # the client can mend it by the provider's words alone
        return without_places(str(error))
    if isinstance(error, ModelError):
        status = "" if error.status is None else f" ({error.status})"
        return f"{error.model}: {kind_of(error)}{status}; the service's log says more."
    if isinstance(error, LedgerError):
        return "the ledger cannot be reached or written: try again later."
    return f"the service failed with {type(error).__name__}; its log says more."


def _retry_after(error: BaseException) -> dict[str, str]:
    if isinstance(error, RateLimitError):
        known_s = error.retry_after
    elif isinstance(error, NotSentError):
        known_s = error.ready_in_s
    else:
        return {}
    return {"Retry-After": str(max(1, math.ceil(known_s or 1)))}


_PLACES = re.compile(
    r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>)\]]+"
    r"|\b(?:org|proj|acct|account|project|tenant|req|request)[-_]\w{6,}"
    r"|\b[\w.-]+@[\w.-]+\.\w+|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"
    r"|(?<![\w/])/(?:[\w.@-]+/)+[\w.@-]*|\b(?:sk|csk|key|pk)[-_][\w*-]{6,}",
    re.IGNORECASE,
)


def without_places(text: str) -> str:
    """A text without addresses, accounts, paths and keys."""
    return _PLACES.sub("[…]", text)


_FAILED = re.compile(r"\b(?:failed: |could not be had: )")


def plain_reason(reason: str, failures: Iterable[str]) -> str:
    """The reason of a decision, as it may leave the process.

    Args:
        reason: of the decision; it may end in the words of an error, which quote a server.
        failures: the tiers that failed, with the kind of each failure.
    """
    kept, found = reason, _FAILED.search(reason)
    if found is not None:
        decided = reason[: found.start()].rpartition("; but ")[0]
        kept = "; ".join([*filter(None, [decided]), *(list(failures) or ["a tier failed"])])
    return without_places(kept)[:300]
