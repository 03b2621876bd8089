"""Every error that the cascade raises on purpose, in one tree under `CascadeError`.

Messages say what was wrong, with which value, and what to do next.
"""

from __future__ import annotations

import copyreg
import sys
from typing import Any


class CascadeError(Exception):
    """Base of all errors here; `ledger` is the `LedgerView` of what a failed run has spent."""

    ledger: Any = None

    def __reduce__(self) -> Any:
        # Pools and queues pickle errors; `args` alone are not what every class is made of.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class ConfigurationError(CascadeError, ValueError):
    """The cascade, a tier or a command was set up with a value that cannot work."""


class MissingDependencyError(ConfigurationError):
    """A model or feature needs a package that is not installed; the message names the extra."""


class PersonNeededError(ConfigurationError):
    """The policy asked a person where no checkpointer keeps the run until the answer:
    `Cascade.resume(run, said)` goes on with it."""

    def __init__(self, message: str, run: Any) -> None:
        super().__init__(message)
        self.run = run


class CalibrationMismatchError(ConfigurationError):
    """A calibration was made for another model, prompt, task or set of signals."""


class InputError(CascadeError, ValueError):
    """The question itself cannot be answered: empty, of the wrong type, not text."""


class UnknownRunError(InputError):
    """Feedback about a run that is neither in the ledger nor among the lessons."""


class ModelError(CascadeError):
    """A call to a model failed.

    Attributes:
        model: as `provider:name`.
        billed: False when the provider does not charge for this failure (a refused request),
            None where that is unknown (a timeout, a broken stream).
        status: of HTTP.
        retry_after: seconds that the provider asks to wait (429, 503).
        retryable: whether the same request may succeed when it is sent again.
        circumstantial: whether another tier may succeed where this one failed.
    """

    retryable: bool = False
    circumstantial: bool = False

    def __init__(
        self,
        message: str,
        *,
        model: str,
        billed: bool | None = False,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.model, self.billed = model, billed
        self.status, self.retry_after = status, retry_after


class AuthenticationError(ModelError):
    """The provider refused the key (HTTP 401 or 403)."""


class ModelNotFoundError(ModelError):
    """The provider does not have this model here (HTTP 404, a redirect, or no such file)."""


class BadRequestError(ModelError):
    """The provider refused the request as it was sent (HTTP 400 or 422)."""


class ContextLengthError(BadRequestError):
    """The prompt is longer than the model's context."""

    circumstantial = True


class UnsupportedContentError(BadRequestError):
    """The request carries something that this model cannot read, such as an image."""

    circumstantial = True


class TransientError(ModelError):
    """The same request may succeed when it is sent again, or when another tier is asked."""

    retryable = True
    circumstantial = True


class RateLimitError(TransientError):
    """The provider asks to slow down (HTTP 429)."""


class ModelUnavailableError(TransientError):
    """No server at the address, or one that failed (HTTP 5xx)."""


class NotSentError(ModelUnavailableError):
    """The tier was not asked, for now: nothing was sent or spent. It may be asked again in
    `ready_in_s` seconds; None where that is unknown."""

    retryable = False

    def __init__(self, message: str, *, model: str, ready_in_s: float | None = None) -> None:
        super().__init__(message, model=model)
        self.ready_in_s = ready_in_s


class CircuitOpenError(NotSentError):
    """The tier has failed so often that it is left alone for a while; then one call tries it."""


class ModelTimeoutError(TransientError):
    """The model did not answer in time; what it cost is unknown."""


class DeadlineError(ModelTimeoutError):
    """The deadline of the run passed before the model was asked: nothing was sent or spent."""

    retryable = False
    circumstantial = False


class StreamInterruptedError(TransientError):
    """The connection broke after a part of the answer had arrived; its cost is unknown."""


class LocalOnlyError(ModelError):
    """The model is not on this machine, and the question must not leave it: nothing was sent."""


class MalformedResponseError(TransientError):
    """The provider answered with something that cannot be read; its cost is unknown."""


class ExtensionError(CascadeError):
    """Code of the user's that the cascade called has raised; `__cause__` is what it raised."""


class RecordingMissError(CascadeError, LookupError):
    """A replayed model has no recorded answer for this request."""


class RealRequestForbiddenError(CascadeError):
    """A real model was about to be called while `forbid_real_requests` is on."""


class LedgerError(CascadeError):
    """A ledger entry cannot be written or read."""


def is_control_flow(error: object) -> bool:
    """True if an exception is LangGraph's way to interrupt or redirect a graph, not a failure."""
    errors = sys.modules.get("langgraph.errors")  # never loaded for this: then it cannot be one
    return errors is not None and isinstance(error, errors.GraphBubbleUp)
