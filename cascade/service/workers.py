"""Several processes on one port: each is a replica, and they share a ledger in PostgreSQL."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from cascade.errors import CascadeError, ConfigurationError
from cascade.service.config import ServiceConfig
from cascade.service.server import bound, serve, set_up_logs
from cascade.service.shared import is_shared

logger = logging.getLogger("cascade")

SOON_S = 10.0
"""A worker that ends by itself so soon after its start would do so again."""

LOOK_S = 0.5
"""Between two looks at the workers, where none has ended."""

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class WorkersError(CascadeError):
    """The workers cannot run; their logs say why."""


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    begun_at: float


def check_workers(config: ServiceConfig, workers: int) -> None:
    """Whether so many processes can be one service.

    Raises:
        ConfigurationError: they would share nothing but a port.
    """
    url = None if config.ledger is None else config.ledger.url
    if workers < 1:
        raise ConfigurationError(f"workers={workers}: at least 1.")
    if workers > 1 and not is_shared(url):
        kind = "there is none" if url is None else f"it is in {url.partition(':')[0]}"
        raise ConfigurationError(
            f"workers={workers}: several processes share budgets, keys and calibrations by a "
            f"ledger in PostgreSQL, and {kind}. Set ledger: postgresql://…, or run one."
        )


def serve_with(config: ServiceConfig, folder: Path | None, workers: int) -> None:
    """Run so many replicas on one port until they are told to stop.

    SIGTERM, SIGINT and SIGHUP are passed on to each. One that dies is started again.

    Raises:
        ConfigurationError: the ledger is not in PostgreSQL, or it cannot listen there.
        WorkersError: a worker ended as soon as it had begun.
    """
    check_workers(config, workers)
    set_up_logs(config.log)
    with bound(config.listen) as listening:
        _Workers(lambda: _start(config, folder, listening), workers).run()


class _Workers:
    """Starts them, passes signals on, and replaces those that die."""

    def __init__(self, start: Callable[[], SpawnProcess], n: int) -> None:
        self._start = start
        self._n = n
        self._running: list[_Worker] = []
        self._told: list[int] = []
        self._stopping = False
        self._failed = False

    def run(self) -> None:
        """Until all have ended."""
        for number in PASSED_ON:
            signal.signal(number, lambda number, _: self._told.append(number))
        self._running = [self._begun() for _ in range(self._n)]
        while self._running:
            wait([worker.process.sentinel for worker in self._running], timeout=LOOK_S)
            self._pass_on()
            for worker in [w for w in self._running if not w.process.is_alive()]:
                self._running.remove(worker)
                if not self._stopping:
                    self._replace(worker)
        if self._failed:
            raise WorkersError("a worker ended as soon as it had begun: its log says why.")

    def _begun(self) -> _Worker:
        return _Worker(self._start(), time.monotonic())

    def _pass_on(self) -> None:
        while self._told:
            number = self._told.pop(0)
            self._stopping |= number != signal.SIGHUP
            for worker in self._running:
                if worker.process.pid is not None and worker.process.is_alive():
                    os.kill(worker.process.pid, number)

    def _replace(self, worker: _Worker) -> None:
        """Start another in the place of one that died, unless that would die as well."""
        code = worker.process.exitcode or 0
        logger.error("worker %s ended with %s", worker.process.pid, code)
        if code > 0 and time.monotonic() < worker.begun_at + SOON_S:
            self._failed = True
            self._told.append(signal.SIGTERM)
        else:
            self._running.append(self._begun())


def _start(config: ServiceConfig, folder: Path | None, listening: socket.socket) -> SpawnProcess:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_work, args=(config, folder, listening))
    process.start()
    return process


def _work(config: ServiceConfig, folder: Path | None, listening: socket.socket) -> None:
    """One worker."""
    os.setpgrp()  # a Ctrl-C is for the parent, which passes it on once
    threading.Thread(target=_end_with_parent, daemon=True).start()
    serve(config, folder, [listening])


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
