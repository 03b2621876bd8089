"""What of an error is told to whom: a client what it can act on, the log the rest."""

from __future__ import annotations

import logging

from cascade._masking import mask_keys, mask_places
from cascade.errors import (
    AuthenticationError,
    BadRequestError,
    CascadeError,
    DeadlineError,
    InputError,
    LedgerError,
    LocalOnlyError,
    MalformedResponseError,
    ModelError,
    ModelNotFoundError,
    ModelTimeoutError,
    ModelUnavailableError,
    RateLimitError,
    StreamInterruptedError,
)

__all__ = ["told"]

logger = logging.getLogger("cascade")

_SAID: tuple[tuple[type[ModelError], str], ...] = (
    (AuthenticationError, "refused the key of this service: tell who runs it"),
    (ModelNotFoundError, "is not there: tell who runs this service"),
    (RateLimitError, "is asked too often: try again later"),
    (ModelTimeoutError, "gave no answer in time: try again, or allow more time"),
    (
        StreamInterruptedError,
        "broke off; what was shown already is not its whole answer: ask again",
    ),
    (MalformedResponseError, "sent something that cannot be read: tell who runs this service"),
    (ModelUnavailableError, "cannot be reached or failed: try again later"),
)
"""What clients are told of a tier that failed, instead of its provider's words; the first that
fits. Those may hold a key, an account, an address within the service's network."""

_OURS = (InputError, LocalOnlyError, DeadlineError)
"""Errors in the words of this package, about the request alone."""


def told(error: CascadeError, where: str = "a run") -> str:
    """The words for a client; what it is not told goes to the log.

    Of a refused request those of the provider, as the client can mend it by them alone, but for
    keys, accounts, addresses and paths.

    Args:
        error: of a run.
        where: for the log.
    """
    if isinstance(error, (*_OURS, BadRequestError)):
        return mask_places(mask_keys(str(error)))
    logger.warning("%s: %s: %s", where, type(error).__name__, mask_keys(str(error)))
    if isinstance(error, ModelError):
        said = next((said for kind, said in _SAID if isinstance(error, kind)), "failed")
        status = "" if error.status is None else f" ({error.status})"
        return f"{error.model} {said}{status}."
    if isinstance(error, LedgerError):
        return "the ledger cannot be reached or written: try again later."
    return f"the service failed with {type(error).__name__}; its log says more."
