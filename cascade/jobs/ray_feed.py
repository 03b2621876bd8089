"""Blocks of rows from a job to its replicas, by way of Ray Data. Imported where Ray is there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

import ray
from ray.data import ActorPoolStrategy, Datasource, read_datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

__all__ = ["Feeder", "answers_of"]

pa: Any = import_module("pyarrow")  # it has no types

SETTLED = b""
"""Instead of the rows of a block that nobody needs any more."""


class Feeder:
    """Hands blocks on, in order; an actor beside the job.

    A block is kept until it is settled: a reader that was killed is followed by another, which
    begins with the first one.
    """

    def __init__(self) -> None:
        self._blocks: dict[int, bytes] = {}
        self._given = 0
        self._ended = False
        self._changed = asyncio.Condition()

    async def put(self, index: int, rows: bytes) -> None:
        """A block; whoever takes gets them in the order of their numbers."""
        async with self._changed:
            self._blocks[index] = rows
            while self._given in self._blocks:
                self._given += 1
            self._changed.notify_all()

    async def settle(self, index: int) -> None:
        """The journal has the rows of a block."""
        self._blocks.pop(index, None)

    async def end(self) -> None:
        """There are no more."""
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def take(self, index: int) -> list[bytes] | None:
        """All blocks from this one on that are there, one at least; None after the last one."""
        async with self._changed:
            await self._changed.wait_for(lambda: index < self._given or self._ended)
        if index >= self._given:
            return None
        return [self._blocks.get(each, SETTLED) for each in range(index, self._given)]


class _Blocks(Datasource):
    """What a feeder hands on, in one task that goes on as long as the job."""

    def __init__(self, feeder: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._feeder = feeder

    def estimate_inmemory_data_size(self) -> int | None:
        """Not known: rows are read as they are needed."""
        return None

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: Any = None,
    ) -> list[ReadTask]:
        """One task, whatever the parallelism."""
        del parallelism, per_task_row_limit, data_context
        feeder = self._feeder

        def read() -> Iterator[Any]:
            index = 0
            while (blocks := ray.get(feeder.take.remote(index))) is not None:
                for rows in blocks:
                    cells = {"index": [index], "rows": pa.array([rows], pa.large_binary())}
                    yield pa.table(cells)
                    index += 1

        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(read, unknown)]


def answers_of(
    feeder: Any, replica: type[Any], work: object, replicas: int, cpus: float, calls: int
) -> Iterator[tuple[int, bytes]]:
    """What replicas say to the blocks of a feeder, as they say it.

    Args:
        feeder: the actor that hands the blocks on.
        replica: made once in each process, of `work`; called with blocks.
        work: what a replica is told.
        replicas: how many.
        cpus: that Ray keeps for each.
        calls: blocks at once in each.

    Yields:
        The number of a block, and the `answers` to it.
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # the job tells how far it is
    blocks = read_datasource(_Blocks(feeder), override_num_blocks=1, num_cpus=0)
    settings = blocks.context
    settings.target_max_block_size = 1  # else rows would wait for others, to be one large block
    settings.execution_no_progress_timeout_s = -1  # a row takes as long as it takes
    settings.enable_progress_bars = False
    settings.print_on_execution_start = False
    pool = ActorPoolStrategy(
        size=replicas,
        max_tasks_in_flight_per_actor=2 * calls,
        max_concurrent_calls_per_actor=calls,
        enable_true_multi_threading=True,
    )
    answers = blocks.map_batches(
        replica,
        batch_size=None,
        batch_format="pyarrow",
        compute=pool,
        num_cpus=cpus,
        fn_constructor_args=(work,),
    )
    batches: Iterable[Any] = answers.iter_batches(
        batch_size=None, prefetch_batches=0, batch_format="pyarrow"
    )
    for batch in batches:
        for row in batch.to_pylist():
            yield row["index"], row["answers"]
