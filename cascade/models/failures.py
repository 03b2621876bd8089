"""Refusals and breakdowns of providers as the named errors of `cascade.errors`.

Errors travel further than answers: into logs, ledgers and traces. Providers repeat in theirs the
key that they refuse and the text that they do not like; neither may stay in a message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from cascade.errors import (
    AuthenticationError,
    BadRequestError,
    CascadeError,
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
_ADVICE: dict[type[Exception], str] = {
    AuthenticationError: "Check the API key and what it may use.",
    ModelNotFoundError: "Check the model's name and the address.",
    ContextLengthError: "Shorten the conversation, or use a model with a longer context.",
    UnsupportedContentError: "Leave that out, or use a model that can take it.",
    BadRequestError: "Change the request; sending it again will not help.",
    RateLimitError: "Wait and send it again, or lower the concurrency.",
    ModelUnavailableError: "Send it again later.",
    ModelTimeoutError: "Send it again, or give it more time.",
    StreamInterruptedError: "Send it again.",
    MalformedResponseError: "Is this the right address and the right kind of server?",
    ConnectionRefusedError: "Is the server running? Check its address.",
}
_BY_STATUS: dict[int, type[ModelError]] = {
    **dict.fromkeys((301, 302, 303, 307, 308), ModelNotFoundError),
    **dict.fromkeys((401, 403), AuthenticationError),
    **dict.fromkeys((408, 504), ModelTimeoutError),
    404: ModelNotFoundError,
    409: ModelUnavailableError,  # requests were in each other's way, and none was worked on
    413: ContextLengthError,
    429: RateLimitError,
}

# Exceptions of HTTP clients and SDKs are told by the names of their classes.
_NEVER_CONNECTED = {
    *("ClientConnectorError", "ConnectionTimeoutError"),  # aiohttp
    *("ConnectError", "ConnectTimeout"),  # httpx
    *("ConnectionRefusedError", "gaierror"),
}
_UNREADABLE = {"ContentEncodingError", "DecodingError"}
_BROKE_OFF = {"OSError", "ClientError", "HTTPError", "APIConnectionError"}


class Caller:
    """Model and server, as errors name them, with ways out of their own by the kind of error
    (`ollama pull …`), `ConnectionRefusedError` where no server runs."""

    def __init__(self, name: str, address: str, advice: Mapping[Any, str] | None = None) -> None:
        self.name, self.address = name, address
        self._advice = {**_ADVICE, **(advice or {})}

    def refused(self, status: int, reason: str, headers: object = None) -> ModelError:
        """The error for an HTTP status; a refusal is not billed, a broken server may bill."""
        kind = _BY_STATUS.get(status)
        # Before the class of the status: Ollama and llama.cpp report these with 500, too.
        if kind is None and _TOO_LONG.search(reason):
            kind = ContextLengthError
        elif kind is None and _UNSUPPORTED.search(reason):
            kind = UnsupportedContentError
        kind = kind or (ModelUnavailableError if status >= 500 else BadRequestError)
        broken = kind in (ModelUnavailableError, ModelTimeoutError) and status != 409
        did = "failed" if status >= 500 else "refused the request"
        error = self._error(kind, f"{did} ({status})", reason, None if broken else False)
        error.status = status
        with suppress(KeyError, ValueError):  # there is none, or a date
            wait = float(headers["retry-after"]) if isinstance(headers, Mapping) else -1.0
            error.retry_after = wait if 0 <= wait < float("inf") else None
        return error

    def interrupted(self, reason: str) -> ModelError:
        """A stream that ended too early."""
        return self._error(StreamInterruptedError, "broke the stream off", reason)

    def malformed(self, reason: str) -> ModelError:
        """An answer that cannot be read; it was computed, so it may be billed."""
        return self._error(MalformedResponseError, "sent something that cannot be read", reason)

    def failed(self, error: Exception) -> ModelError | None:
        """The named error for an exception of an HTTP client or a provider's SDK; None where it is
        a bug, here or in the SDK."""
        reason, response = str(error) or type(error).__name__, getattr(error, "response", None)
        names = {kind.__name__ for cause in _causes(error) for kind in type(cause).__mro__}
        places = ((error, "status_code"), (error, "code"), (response, "status_code"))
        # What is no HTTP at all has a status of 400 in aiohttp.
        said = (getattr(at, name, None) for at, name in places if "ClientError" not in names)
        status = next((s for s in said if isinstance(s, int) and 400 <= s < 600), None)
        named = None
        if names & _NEVER_CONNECTED:
            did = "does not answer: no server listens there"
            named = self._error(ConnectionRefusedError, did, reason, False)
        elif "NotImplementedError" in names:
            named = self._error(UnsupportedContentError, "cannot do that", reason, False)
        elif status is not None:
            named = self.refused(status, reason, getattr(response, "headers", None))
        elif names & _UNREADABLE:
            named = self.malformed(reason)
        elif any("Timeout" in name for name in names):
            named = self._error(ModelTimeoutError, "gave no answer in time", reason)
        elif names & _BROKE_OFF:
            named = self._error(ModelUnavailableError, "lost the connection", reason)
        return named

    @contextmanager
    def named(self) -> Iterator[None]:
        """Raise what is raised within under its name, as `failed` has it."""
        try:
            yield
        except CascadeError:
            raise
        except Exception as error:
            did, reason = f"failed with {type(error).__name__}", str(error) or "it says no more"
            raise self.failed(error) or self._error(ModelError, did, reason) from error

    @contextmanager
    def readable(self) -> Iterator[None]:
        """Raise as `malformed` what is raised where a reply is not as it should be."""
        try:
            yield
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise self.malformed(f"{type(error).__name__}: {error}") from error

    def _error(
        self, kind: type[Exception], did: str, reason: str, billed: bool | None = None
    ) -> ModelError:
        known = kind if issubclass(kind, ModelError) else ModelUnavailableError
        way_out = self._advice.get(kind, "")
        said = f"{self.name} at {self.address} {did}: {shorten(reason)}. {way_out}".strip()
        return known(said, model=self.name, billed=billed)


def _causes(error: BaseException) -> Iterator[BaseException]:
    for _ in range(10):
        yield error
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is None:
            return
        error = cause


GAP = "[…]"
"""Stands in the place of what is left out."""

_KEY = re.compile(r"\b(sk|pk|key|gsk|hf)[-_][\w*-]{6,}|\bBearer\s+[^\s,;'\"]+", re.IGNORECASE)


def without_secrets(url: str) -> str:
    """The address without a password or query in it."""
    return re.sub(r"(?<=://)[^\s/@]*@|\?\S*", "", url).rstrip("/")


def shorten(reason: str) -> str:
    """One line that moves no cursor and repeats no key."""
    line = "".join(c if c.isprintable() else " " for c in reason)
    line = _KEY.sub(GAP, " ".join(line.split())).rstrip(".")
    return line if len(line) <= 300 else line[:299] + "…"


def conceal(error: ModelError, asked: Iterable[str], secrets: Sequence[str]) -> None:
    """Take keys, and quotes of the question, out of an error; drop causes that have any. A quote
    has 16 characters or more: both may have the same words. Servers quote beginnings and ends; to
    look through megabytes would hold up everybody else."""
    ends = [part for text in asked for part in {text[:100_000], text[-100_000:]}]
    # Inside JSON the same characters have another spelling.
    sources = [spelling for text in ends for spelling in {text, json.dumps(text)[1:-1]}]

    def clean(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, GAP) if len(secret) >= 6 else text
        quoted = [False] * len(text)
        for start in range(len(text) - 15):
            if any(text[start : start + 16] in source for source in sources):
                quoted[start : start + 16] = [True] * 16
        kept = (GAP if hidden else c for c, hidden in zip(text, quoted, strict=True))
        return re.sub(rf"({re.escape(GAP)})+", GAP, "".join(kept))

    error.args = tuple(clean(part) if isinstance(part, str) else part for part in error.args)
    if any(clean(said[:10_000]) != said for said in map(str, _causes(error))):
        error.__cause__ = error.__context__ = None
