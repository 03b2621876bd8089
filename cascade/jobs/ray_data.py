"""Ray engine of a job: blocks of rows through Ray Data to replicas, each with a cascade.

Rows, journal and records are those of the local engine; either goes on with what the other has
begun. Ray gives the block of a replica that dies to another one: at most `concurrency` rows of each
replica are then asked twice, and both times are in the ledger.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cascade._portal import run_sync
from cascade.api import Cascade
from cascade.errors import (
    CascadeError,
    ConfigurationError,
    LedgerError,
    MissingDependencyError,
    ModelUnavailableError,
)
from cascade.jobs.engine import CONCURRENCY, Done, ask, is_done, made_with, unreadable
from cascade.jobs.journal import Journal, Record, from_content, to_line
from cascade.jobs.rows import Row

OBJECT_STORE_BYTES = 256 * 2**20
"""Memory of a cluster of its own for what is under way: questions and answers."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a replica is told.

    Attributes:
        recipe: what its cascade is made of, see `run_on_ray`.
        made_with: what the answers of the job depend on; a replica with another set-up refuses.
        job: tag of the ledger's entries.
        folder: in which the job was started, and to which relative paths belong.
    """

    recipe: Mapping[str, Any]
    made_with: Mapping[str, Any]
    job: str
    folder: Path


def run_on_ray(
    recipe: Mapping[str, Any],
    cascade: Cascade,
    rows: Iterable[Row],
    journal: Journal,
    *,
    name: str = "batch",
    concurrency: int = CONCURRENCY,
    replicas: int | None = None,
) -> Done:
    """Answer all rows that the journal has no answer to, on a Ray cluster.

    The cluster is the one that is connected, or that `RAY_ADDRESS` names, or else one on this
    machine for as long as the job. Its machines have the same package, keys and files. What comes
    back is in the journal at once; a job that is killed loses what is under way.

    Args:
        recipe: what a replica makes its cascade of: `small` and `large` as model strings, `ledger`
            as an address, `prices` as a file, `max_tokens`, `temperature`, and options of
            `Cascade`.
        cascade: made of the same recipe; its models are not asked.
        rows: what to ask; all that are not done are held in memory.
        journal: knows what is done, and is told.
        name: tags the ledger's entries as `job`, with the number of the row as `row`.
        concurrency: rows under way at once in each replica.
        replicas: processes with a cascade; by default one for each core of the cluster.

    Raises:
        ConfigurationError: a number is below 1, or a replica cannot make that cascade.
        LedgerError: the journal cannot be written.
        MissingDependencyError: the extra `ray` is not installed.
        ModelUnavailableError: Ray has failed; what came back is in the journal.
    """
    for option, value in (("concurrency", concurrency), ("replicas", replicas)):
        if value is not None and value < 1:
            raise ConfigurationError(f"{option}={value}: must be 1 or more.")
    ray = _ray()
    done = Done(before_usd=journal.spent_usd)
    asked = [row for row in _unread_told(rows, journal, done) if not is_done(row, journal, done)]
    if not asked:
        return done
    work = Work(recipe, made_with(cascade), name, Path.cwd())
    with cluster(ray):
        cores = replicas or int(ray.cluster_resources().get("CPU", 1))
        for record in _answers(ray, work, asked, concurrency, max(1, cores)):
            journal.add(record)
            done.count(record)
    return done


@contextmanager
def cluster(ray: Any) -> Iterator[None]:
    """A connection to a cluster; one that is made here ends with the block.

    Raises:
        ConfigurationError: the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    own = {} if os.environ.get("RAY_ADDRESS") else {"object_store_memory": OBJECT_STORE_BYTES}
    try:
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigurationError(
            f"the Ray cluster cannot be reached: {error}. Check RAY_ADDRESS."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


class Replica:
    """Process with a cascade of its own that answers blocks of rows; Ray Data makes and calls it.

    What is wrong with it is told by its answer to a block: Ray would begin anew after an error.
    """

    def __init__(self, work: Work) -> None:
        self._opened = ExitStack()
        self._work = work
        self._problem: str | None = None
        try:
            self._cascade = self._open()
        except (CascadeError, OSError) as error:
            self._problem = f"{type(error).__name__}: {error}"

    def __call__(self, block: Any) -> Any:
        """The `said` of a block: for each of its `row`s the line of its record, or the problem."""
        if self._problem is None:
            given = [pickle.loads(row) for row in block["row"].to_pylist()]  # noqa: S301 - our own
            said = [to_line(record) for record in run_sync(self._ask_all(given))]
        else:
            said = [json.dumps({"problem": self._problem}).encode()]
        pa: Any = import_module("pyarrow")  # it has no types
        return pa.table({"said": pa.array(said, pa.large_binary())})

    def close(self) -> None:
        """Write what is left, and give everything back."""
        self._opened.close()

    def __del__(self) -> None:
        self.close()  # Ray tells of the end of a replica by nothing else

    def _open(self) -> Cascade:
        os.chdir(self._work.folder)
        cascade = cascade_of(self._work.recipe, self._opened)
        if made_with(cascade) != self._work.made_with:
            raise ConfigurationError(
                "models, prices or options are not those of the job: files and versions have to be "
                "the same on all machines of a cluster."
            )
        return cascade

    async def _ask_all(self, rows: Iterable[Row]) -> list[Record]:
        asked = (ask(self._cascade, row, self._work.job) for row in rows)
        records = await asyncio.gather(*asked)
        store = self._cascade.kernel.ledger.store
        if store is not None:
            with suppress(LedgerError):  # it has told the log, and tries again
                await store.flush()  # before the journal says that they are done
        return records


def cascade_of(recipe: Mapping[str, Any], opened: ExitStack) -> Cascade:
    """The cascade of a recipe (see `run_on_ray`), which is closed with `opened`.

    Raises:
        ConfigurationError: the recipe cannot work.
    """
    from cascade.ledger import open_store  # noqa: PLC0415 - SQLAlchemy
    from cascade.ledger.prices import load_prices  # noqa: PLC0415 - only here
    from cascade.tiers import Tier  # noqa: PLC0415 - only here

    options = dict(recipe)
    url, prices = options.pop("ledger", None), options.pop("prices", None)
    common = {name: options.pop(name, None) for name in ("max_tokens", "temperature")}
    common["price"] = None if prices is None else load_prices(prices)
    small, large = (Tier(options.pop(name), name=name, **common) for name in ("small", "large"))
    store = None if url is None else opened.enter_context(open_store(url))
    return opened.enter_context(Cascade(small, large, ledger=store, **options))


def _ray() -> Any:
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise MissingDependencyError(
            "a job on Ray needs Ray Data: install the extra `ray`, or leave --engine out."
        )
    return import_module("ray")


def _unread_told(rows: Iterable[Row], journal: Journal, done: Done) -> Iterator[Row]:
    """The rows that can be asked; the others are told at once."""
    for row in rows:
        if row.problem is None and row.question is not None:
            yield row
        else:
            record = unreadable(row)
            journal.add(record)
            done.count(record)


def _answers(
    ray: Any, work: Work, rows: list[Row], concurrency: int, replicas: int
) -> Iterator[Record]:
    """Records of rows, as they come back.

    Raises:
        ConfigurationError: a replica cannot make the cascade.
        ModelUnavailableError: Ray has failed.
    """
    data: Any = import_module("ray.data")
    data.DataContext.get_current().enable_progress_bars = False
    blocks = -(-len(rows) // concurrency)
    items = [{"row": pickle.dumps(row)} for row in rows]
    answered = data.from_items(items, override_num_blocks=blocks).map_batches(
        Replica,
        fn_constructor_args=(work,),
        batch_size=concurrency,
        batch_format="pyarrow",
        compute=data.ActorPoolStrategy(size=min(replicas, blocks)),
    )
    try:
        for found in answered.iter_rows():
            content = json.loads(found["said"])
            if "problem" in content:
                raise ConfigurationError(f"a replica cannot begin: {content['problem']}")
            yield from_content(content)
    except ray.exceptions.RayError as error:
        raise ModelUnavailableError(
            f"Ray has failed: {error}. Run the same command again to go on.", model="ray"
        ) from error
