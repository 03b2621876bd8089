"""Many questions at once."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, overload

from langchain_core.runnables import RunnableConfig

from cascade._portal import run_sync
from cascade._together import together
from cascade.errors import ConfigurationError
from cascade.questions import Question
from cascade.result import CascadeResult

BATCH_CONCURRENCY = 16
"""Questions of a batch that are under way at once, unless the caller says otherwise."""


class Batches(ABC):
    """What can answer one question can answer many."""

    @abstractmethod
    async def ainvoke(
        self, question: Question, config: RunnableConfig | None = None
    ) -> CascadeResult:
        """Ask one question."""

    @overload
    async def abatch(
        self,
        questions: Sequence[Question],
        config: RunnableConfig | None = None,
        *,
        max_concurrency: int = ...,
        return_exceptions: Literal[False] = False,
    ) -> list[CascadeResult]: ...

    @overload
    async def abatch(
        self,
        questions: Sequence[Question],
        config: RunnableConfig | None = None,
        *,
        max_concurrency: int = ...,
        return_exceptions: bool,
    ) -> list[CascadeResult | BaseException]: ...

    async def abatch(
        self,
        questions: Sequence[Question],
        config: RunnableConfig | None = None,
        *,
        max_concurrency: int = BATCH_CONCURRENCY,
        return_exceptions: bool = False,
    ) -> list[CascadeResult] | list[CascadeResult | BaseException]:
        """Ask many questions at once; results come in the order of the questions.

        Args:
            questions: what to ask.
            config: LangChain's run configuration, for each of them.
            max_concurrency: how many are under way at the same time.
            return_exceptions: put errors into their places instead of raising the first,
                which stops all other questions.
        """
        if max_concurrency < 1:
            raise ConfigurationError(f"max_concurrency={max_concurrency}: must be 1 or more.")
        free = asyncio.Semaphore(max_concurrency)

        async def ask(question: Question) -> CascadeResult:
            async with free:
                return await self.ainvoke(question, config)

        asking = (ask(question) for question in questions)
        if return_exceptions:
            return await asyncio.gather(*asking, return_exceptions=True)
        return await together(asking)

    @overload
    def batch(
        self,
        questions: Sequence[Question],
        config: RunnableConfig | None = None,
        *,
        max_concurrency: int = ...,
        return_exceptions: Literal[False] = False,
    ) -> list[CascadeResult]: ...

    @overload
    def batch(
        self,
        questions: Sequence[Question],
        config: RunnableConfig | None = None,
        *,
        max_concurrency: int = ...,
        return_exceptions: bool,
    ) -> list[CascadeResult | BaseException]: ...

    def batch(
        self,
        questions: Sequence[Question],
        config: RunnableConfig | None = None,
        *,
        max_concurrency: int = BATCH_CONCURRENCY,
        return_exceptions: bool = False,
    ) -> list[CascadeResult] | list[CascadeResult | BaseException]:
        """`abatch` for synchronous callers."""
        return run_sync(
            self.abatch(
                questions,
                config,
                max_concurrency=max_concurrency,
                return_exceptions=return_exceptions,
            )
        )
