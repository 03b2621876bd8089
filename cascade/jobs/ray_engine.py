"""A job on Ray: blocks of rows through Ray Data to replicas, each a process with a cascade.

The job itself is that of one process: the same budget, journal and order of rows. Only the asking
is done elsewhere.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from cascade._together import together
from cascade.errors import ConfigurationError
from cascade.jobs.journal import Journal
from cascade.jobs.ray_cluster import require_ray
from cascade.jobs.ray_crew import Crew
from cascade.jobs.ray_replica import Factory, Work
from cascade.jobs.records import Record
from cascade.jobs.rows import Row
from cascade.jobs.running import CONCURRENCY, Done, Job, Purse, made_with

__all__ = ["run_job_on_ray"]


async def run_job_on_ray(
    factory: Factory,
    rows: Iterable[Row],
    journal: Journal,
    *,
    name: str = "batch",
    replicas: int | None = None,
    replica_cpus: float = 1.0,
    concurrency: int = CONCURRENCY,
    budget_usd: Decimal | None = None,
    progress: Callable[[Done], None] = lambda _: None,
    stop: asyncio.Event | None = None,
    address: str | None = None,
) -> Done:
    """`run_job` with replicas on a Ray cluster; either goes on with what the other has begun.

    A replica that is killed is replaced, and the rows that it had under way are asked again
    (`Done.lost`). Those that it had answered are taken up.

    Args:
        factory: makes the cascade, here and once in each replica; a function that pickle can
            send, such as one at the top of a module.
        rows: what to ask; read as they are needed.
        journal: knows what is done, and is told. All machines of the cluster have to see its
            folder under the same path.
        name: tags the ledger's entries as `job`, with the number of the row as `row`.
        replicas: processes with a cascade; by default as many as this machine has cores for.
        replica_cpus: cores that Ray keeps for each of them, and threads of a `llamacpp:` model
            that does not say itself how many.
        concurrency: rows under way at once in each replica.
        budget_usd: dollars of the whole job. What a row may cost is put aside here before the row
            is sent to a replica.
        progress: called after each row.
        stop: set it to begin no more rows; those under way are ended.
        address: of a Ray cluster. None for the one that is connected already, or that
            `RAY_ADDRESS` names, or else one on this machine for as long as the job.

    Raises:
        ConfigurationError: a number is too small, a budget is given and a tier has no price, a
            replica has another cascade or does not see the journal's folder, or the cluster
            cannot be reached.
        LedgerError: the journal cannot be written.
        MissingDependencyError: the extra `ray` is not installed.
    """
    require_ray()
    replicas = _checked(replicas, replica_cpus, concurrency)
    with factory() as cascade:
        stop = stop or asyncio.Event()

        depends = made_with(cascade)

        def work(folder: Path) -> Work:
            threads = max(1, math.floor(replica_cpus))
            return Work(factory, depends, name, folder, Path.cwd(), concurrency, threads)

        crew = Crew(work, journal.path, depends, replicas, replica_cpus, concurrency, address, stop)
        purse = Purse(budget_usd, journal.spent_usd)
        done = Done(before_usd=journal.spent_usd)
        job = _Job(cascade, iter(rows), journal, name, purse, progress, stop, done, crew=crew)
        async with crew:
            # With a budget no more rows have money put aside than are under way.
            ahead = 1 if budget_usd is not None else 2
            await together(job.work() for _ in range(ahead * replicas * concurrency))
        return done


@dataclass(slots=True, kw_only=True)
class _Job(Job[Done]):
    crew: Crew

    async def answered(self, row: Row) -> Record | None:
        """Have a row asked by a replica."""
        return await self.crew.ask(row)

    def written(self, record: Record) -> None:
        """A row is in the journal, and need not be anywhere else any more."""
        self.crew.written(record.number)


def _checked(replicas: int | None, replica_cpus: float, concurrency: int) -> int:
    if concurrency < 1:
        raise ConfigurationError(f"concurrency={concurrency}: must be 1 or more.")
    if not 0 < replica_cpus < math.inf:
        raise ConfigurationError(f"replica_cpus={replica_cpus}: must be more than 0.")
    if replicas is None:
        return max(1, math.floor((os.cpu_count() or 1) / replica_cpus))
    if replicas < 1:
        raise ConfigurationError(f"replicas={replicas}: must be 1 or more.")
    return replicas
