"""Processes that a benchmark starts end with it, also when it is told to end by SIGTERM."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE_S = 30


@contextmanager
def child_process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with this; `options` are those of `Popen`."""
    if threading.current_thread() is threading.main_thread():
        # By itself SIGTERM ends a process at once, without a `finally`.
        signal.signal(signal.SIGTERM, _end)
    with subprocess.Popen(command, text=True, **options) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _end(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # while its processes end
    sys.exit(128 + number)
