"""Commands in processes of their own that need not import everything again each time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

_MOTHER = """
import json, os, sys
from cascade.cli import app
import cascade.api, cascade.jobs.provider, cascade.jobs.plan, cascade.ledger.store, openai
print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child:
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
        continue
    out = os.open(asked["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1), os.dup2(out, 2)
    code = 1
    try:
        app(asked["argv"])
    except SystemExit as left:
        code = left.code or 0
    finally:
        sys.stdout.flush()
        os._exit(code)
"""


class Forks:
    """Runs `cascade …` in forks of one process, one after the other.

    Args:
        folder: in which the commands are typed.
        environment: beside that of the tests.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.said = folder / ".said"
        self._mother = subprocess.Popen(
            [sys.executable, "-c", _MOTHER],
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "ready"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._mother.kill()
        self._mother.communicate()

    def run(
        self,
        *argv: str,
        until: Callable[[], bool] | None = None,
        told: signal.Signals = signal.SIGKILL,
    ) -> int:
        """The exit code of a command; negative is the signal that ended it.

        Args:
            argv: the command, without `cascade`.
            until: when this is so, the command is sent a signal, if it still runs.
            told: which one.
        """
        assert self._mother.stdin is not None
        self._mother.stdin.write(json.dumps({"argv": argv, "said": str(self.said)}) + "\n")
        self._mother.stdin.flush()
        child = int(self._line())
        if until is not None:
            ends = time.monotonic() + 60
            while not until() and _runs(child):
                assert time.monotonic() < ends, self.words()
                time.sleep(0.001)
            with suppress(ProcessLookupError):
                os.kill(child, told)
        return int(self._line())

    def words(self) -> str:
        """What the last command said."""
        return self.said.read_text()

    def _line(self) -> str:
        assert self._mother.stdout is not None
        return self._mother.stdout.readline().strip()


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] != "Z"
