"""The switch that keeps tests from calling real models."""

from __future__ import annotations

from types import TracebackType

from cascade.models.base import guard


class forbid_real_requests:  # noqa: N801 - read as a sentence where it is used
    """Stop every request to a real model with `RealRequestForbiddenError`.

    It is on from the moment of the call, in the whole process. Fakes and recordings still
    answer. Either keep it on (in `conftest.py`), and call what it returns to undo it, or use it
    as a context manager:

        allow_again = forbid_real_requests()
        ...
        allow_again()

        with forbid_real_requests():
            ...
    """

    def __init__(self) -> None:
        self._before = guard.forbidden
        guard.forbidden = True

    def __call__(self) -> None:
        """Undo it: what was allowed before is allowed again."""
        guard.forbidden = self._before

    def __enter__(self) -> forbid_real_requests:
        guard.forbidden = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self()
