"""What a provider says when it refuses or breaks → the named errors of `cascade.errors`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from cascade.errors import (
    AuthenticationError,
    BadRequestError,
    ContextLengthError,
    MalformedResponseError,
    ModelError,
    ModelNotFoundError,
    ModelTimeoutError,
    ModelUnavailableError,
    RateLimitError,
    StreamInterruptedError,
    UnsupportedContentError,
)
from cascade.models.address import without_secrets

_TOO_LONG = re.compile(
    r"context.?(length|size|window)|maximum context|too many tokens|prompt is too long"
    r"|input length exceeds|exceeds? the (available )?context",
    re.IGNORECASE,
)
_CONTENT = r"(image|vision|audio|video|tool|think|reasoning|multimodal|logprob)"
_UNSUPPORTED = re.compile(
    rf"{_CONTENT}.*(not|n't|no) support|(not|n't|no) support.*{_CONTENT}"
    r"|missing data required for image|not a multimodal|no longer supports",
    re.IGNORECASE,
)
_SECRET = re.compile(r"\b(sk|pk|key|gsk|hf)[-_][\w*-]{6,}", re.IGNORECASE)
_ADVICE: dict[type[ModelError], str] = {
    AuthenticationError: "Check the API key and what it may use.",
    ModelNotFoundError: "Check the model's name and the address.",
    ContextLengthError: "Shorten the conversation, or use a model with a longer context.",
    UnsupportedContentError: "Leave that out, or use a model that can take it.",
    BadRequestError: "Change the request; sending it again will not help.",
    RateLimitError: "Wait and send it again, or lower the concurrency.",
    ModelUnavailableError: "Send it again later.",
    ModelTimeoutError: "Send it again, or give it more time.",
}


class Caller:
    """Who is asked and where: what every error message of an adapter names.

    `advice` replaces the general way out by the provider's own (`ollama pull …`).
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        start: str = "",
        advice: Mapping[type[ModelError], str] | None = None,
    ) -> None:
        self.name = name
        self.address = address
        self._start = start
        self._advice = {**_ADVICE, **(advice or {})}

    def refused(self, status: int, reason: str, *, retry_after: float | None = None) -> ModelError:
        """The error for an HTTP status; a refusal is not billed, a broken server may bill."""
        kind = _kind(status, reason)
        message = (
            f"{self.name} at {self.address} {'failed' if status >= 500 else 'refused the request'} "
            f"({status}): {_shorten(reason)}. {self._advice[kind]}"
        )
        if kind is RateLimitError:
            return RateLimitError(message, model=self.name, retry_after=retry_after, status=status)
        broken = kind in (ModelUnavailableError, ModelTimeoutError) and status != CONFLICT
        billed = None if broken else False
        error = kind(message, model=self.name, billed=billed, status=status)
        error.retry_after = retry_after
        return error

    def moved(self, status: int, location: str | None) -> ModelNotFoundError:
        """A redirect, which is not followed; nothing was computed."""
        try:
            to = _shorten(without_secrets(location or "")) or "elsewhere"
        except ValueError:  # no address at all
            to = "elsewhere"
        return ModelNotFoundError(
            f"{self.name} at {self.address} sends the request on to {to} ({status}), and it was "
            "not sent there. If that is the right place, give its address as base_url.",
            model=self.name,
            status=status,
        )

    def unreachable(self, reason: str) -> ModelUnavailableError:
        """Nobody listens: nothing was sent, so nothing is billed."""
        return ModelUnavailableError(
            f"{self.name}: nobody answers at {self.address} ({_shorten(reason)}). {self._start}",
            model=self.name,
        )

    def broke_off(self, reason: str) -> ModelUnavailableError:
        """The connection broke after the request had been sent."""
        return ModelUnavailableError(
            f"{self.name} at {self.address}: the connection broke before an answer came "
            f"({_shorten(reason)}). Send it again.",
            model=self.name,
            billed=None,
        )

    def interrupted(self, reason: str) -> StreamInterruptedError:
        """A stream that ended too early."""
        return StreamInterruptedError(
            f"{self.name} at {self.address}: the stream broke off ({_shorten(reason)}). "
            "What had arrived is not the whole answer; send it again.",
            model=self.name,
            billed=None,
        )

    def malformed(self, reason: str) -> MalformedResponseError:
        """An answer that cannot be read; it was computed, so it may be billed."""
        return MalformedResponseError(
            f"{self.name} at {self.address} sent something that cannot be read "
            f"({_shorten(reason)}). Is this the right address and the right kind of server?",
            model=self.name,
            billed=None,
        )

    def timed_out(self, reason: str) -> ModelTimeoutError:
        """The client gave up waiting."""
        return ModelTimeoutError(
            f"{self.name} at {self.address}: no answer in time ({_shorten(reason)}). "
            f"{_ADVICE[ModelTimeoutError]}",
            model=self.name,
            billed=None,
        )


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """How long a server asks to wait (RFC 9110, 10.2.3), in seconds."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None or value is None:
        return seconds
    try:
        when = parsedate_to_datetime(value).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


CONFLICT = 409
"""Two requests were in each other's way: none of them was worked on, and it may be sent again."""

_BY_STATUS: dict[int, type[ModelError]] = {
    401: AuthenticationError,
    403: AuthenticationError,
    404: ModelNotFoundError,
    408: ModelTimeoutError,
    CONFLICT: ModelUnavailableError,
    413: ContextLengthError,
    429: RateLimitError,
    504: ModelTimeoutError,
}


def _kind(status: int, reason: str) -> type[ModelError]:
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    # Before the class of the status: Ollama and llama.cpp report these with 500, too.
    if _TOO_LONG.search(reason):
        return ContextLengthError
    if _UNSUPPORTED.search(reason):
        return UnsupportedContentError
    return ModelUnavailableError if status >= 500 else BadRequestError


def _shorten(reason: str) -> str:
    """One line without keys: error texts of providers repeat the key that they refuse."""
    line = _SECRET.sub(r"\1-…", " ".join(reason.split())).rstrip(".")
    return line if len(line) <= 300 else line[:299] + "…"
