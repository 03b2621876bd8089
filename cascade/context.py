"""Copied contexts for the steps of a run."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class InCopiedContext(Generic[T]):
    """A coroutine that runs in a context of its own, by default a copy of the present one, within
    the same task.

    A task of its own would do the same at fifty times the cost, and its cancellation would have to
    be handed on.
    """

    __slots__ = ("_context", "_coroutine")

    def __init__(self, coroutine: Coroutine[Any, Any, T], context: Context | None = None) -> None:
        self._coroutine, self._context = coroutine, context

    def __await__(self) -> Generator[Any, Any, T]:
        run, coroutine = (self._context or copy_context()).run, self._coroutine
        value: Any = None
        error: BaseException | None = None
        try:
            while True:
                try:
                    if error is None:
                        waits_for = run(coroutine.send, value)
                    else:
                        waits_for = run(coroutine.throw, error)
                except StopIteration as end:
                    result: T = end.value
                    return result
                value = error = None
                try:
                    value = yield waits_for
                except GeneratorExit:
                    run(coroutine.close)
                    raise
                except BaseException as thrown:  # noqa: BLE001 - it is the coroutine's to handle
                    error = thrown
        finally:
            error = None  # else the frame and its traceback would keep each other
