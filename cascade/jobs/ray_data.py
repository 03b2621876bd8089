"""Ray engine of a job: blocks of rows through Ray Data to replicas, each with a cascade.

The journal is that of the local engine; either goes on with what the other has begun. Ray gives the
block of a replica that dies to another: its rows are asked twice, and both times in the ledger.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cascade import errors
from cascade._numbers import to_count
from cascade._portal import run_sync
from cascade.api import Cascade
from cascade.jobs.engine import CONCURRENCY, Done, ask, made_with
from cascade.jobs.files import Journal, Row, RowRecord

OBJECT_STORE_BYTES = 256 * 2**20
"""Memory of a cluster of its own for what is under way: questions and answers."""

Make = Callable[[ExitStack], Cascade]
"""Makes a cascade, closed with the stack; it is pickled: a module's function, or `partial`."""


def run_on_ray(
    make: Make, rows: Iterable[Row], journal: Journal, *, concurrency: int = CONCURRENCY
) -> Done:
    """Answer all rows that the journal has no answer to, on a Ray cluster: one that is connected or
    that `RAY_ADDRESS` names, else one on this machine for as long as the job. Its machines have
    the same package, keys and files. A job that is killed loses what is under way.

    Args:
        make: makes the cascade of each replica, in the folder in which the job was started.
        rows: all that are not done are held in memory.
        concurrency: rows under way at once in each replica, of which there is one for each core.
    """
    to_count("concurrency", concurrency)
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise errors.MissingDependencyError(
            "a job on Ray needs Ray Data: install the extra `ray`, or leave --engine out."
        )
    ray: Any = import_module("ray")
    done = Done(before_usd=journal.spent_usd)
    asked = [row for row in rows if not done.knows(row, journal)]
    if not asked:
        return done
    with ExitStack() as opened:
        given = (make, made_with(make(opened)), Path.cwd())
    data: Any = import_module("ray.data")
    data.DataContext.get_current().enable_progress_bars = False
    with ExitStack() as connected:
        if not ray.is_initialized():
            quiet = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
            memory = None if os.environ.get("RAY_ADDRESS") else OBJECT_STORE_BYTES
            try:
                ray.init(object_store_memory=memory, **quiet)
            except (ConnectionError, RuntimeError, ValueError) as error:
                told = f"the Ray cluster cannot be reached: {error}"
                raise errors.ConfigurationError(f"{told}. Check RAY_ADDRESS.") from error
            connected.callback(ray.shutdown)
        cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
        blocks = -(-len(asked) // concurrency)
        items = [{"row": pickle.dumps(row)} for row in asked]
        answered = data.from_items(items, override_num_blocks=blocks).map_batches(
            Replica,
            fn_constructor_args=given,
            batch_size=concurrency,
            batch_format="pyarrow",
            compute=data.ActorPoolStrategy(size=min(cores, blocks)),
        )
        try:
            for found in answered.iter_rows():
                if problem := json.loads(found["said"]).get("problem"):
                    raise errors.ConfigurationError(f"a replica cannot begin: {problem}")
                record = RowRecord(**json.loads(found["said"]))
                journal.add(record)
                done.count(record)
        except ray.exceptions.RayError as error:
            told = f"Ray has failed: {error}. Run the same command again to go on."
            raise errors.ModelUnavailableError(told, model="ray") from error
    return done


class Replica:
    """Process with a cascade of its own, to which Ray Data gives blocks of rows. What is wrong with
    it is told by its answer: after an error Ray would begin anew."""

    def __init__(self, make: Make, expected: Mapping[str, Any], folder: Path) -> None:
        self._opened, self._problem = ExitStack(), ""
        try:
            os.chdir(folder)
            self._cascade = make(self._opened)
            if made_with(self._cascade) != expected:
                self._problem = (
                    "models, prices or options are not those of the job: files and versions have "
                    "to be the same on all machines of a cluster."
                )
        except (errors.CascadeError, OSError) as error:
            self._problem = f"{type(error).__name__}: {error}"

    def __call__(self, block: Any) -> Any:
        """The `said` of a block: for each of its `row`s the record, or the problem."""
        said = [json.dumps({"problem": self._problem})]
        if not self._problem:
            given = [pickle.loads(row) for row in block["row"].to_pylist()]  # noqa: S301 - our own
            said = [record.to_json() for record in run_sync(self._ask_all(given))]
        pa: Any = import_module("pyarrow")  # it has no types
        return pa.table({"said": pa.array(said, pa.large_string())})

    def __del__(self) -> None:
        self._opened.close()  # Ray tells of the end of a replica by nothing else

    async def _ask_all(self, rows: Iterable[Row]) -> list[RowRecord]:
        records = await asyncio.gather(*(ask(self._cascade, row) for row in rows))
        if (store := self._cascade.kernel.ledger.store) is not None:
            with suppress(errors.LedgerError):  # it has told the log, and tries again
                await store.flush()  # before the journal says that they are done
        return records
