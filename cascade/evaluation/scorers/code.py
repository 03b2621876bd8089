"""Python answers, run against tests in a process of their own.

This is no sandbox. The process has limits on time, memory and the size of files, an empty folder
to work in, no standard input, and none of the environment; it still runs with your rights, can
read your files and reach the network. Score answers of models that you do not trust in a container
or a virtual machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import secrets
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cascade.errors import ConfigurationError
from cascade.evaluation.scorers.base import Reference, Score, Scorer, texts_of

_FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_LARGEST_FILE = 16 * 2**20
_SHOWN = 600

_RUNNER = """
import sys, types
memory, seconds, largest, mark = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
sys.argv = ["answer.py"]
try:
    import resource
except ImportError:
    pass
else:
    limits = [(resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds),
              (resource.RLIMIT_FSIZE, largest), (resource.RLIMIT_CORE, 0)]
    for what, limit in limits:
        resource.setrlimit(what, (limit, limit))
answer = sys.modules["answer"] = types.ModuleType("answer")
for name in ("answer.py", "tests.py"):
    with open(name, encoding="utf-8") as file:
        exec(compile(file.read(), name, "exec"), answer.__dict__)
with open("done", "w") as file:
    file.write(mark)
"""
"""Writes the mark only after the last test: an answer that leaves early has not passed."""


@dataclass(frozen=True, slots=True)
class CodeScorer(Scorer):
    """1 when the answer's Python code passes the tests of the reference, else 0.

    The code is all fenced blocks of the answer, or else the whole answer. The reference is Python
    that raises when a test fails (`assert add(1, 2) == 3`), or a list of such texts; it runs
    after the answer in the same module. See the module's remark: this is no sandbox.

    Args:
        timeout_s: seconds for all tests of an answer.
        memory_mb: limit of its memory (not on Windows).

    Raises:
        ConfigurationError: a limit is not above 0.
    """

    timeout_s: float = 10.0
    memory_mb: int = 1024

    def __post_init__(self) -> None:
        for name in ("timeout_s", "memory_mb"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(
                    f"CodeScorer({name}={getattr(self, name)}): must be above 0."
                )

    @property
    def spec(self) -> str:
        """`code:` with the seconds."""
        return f"code:{self.timeout_s:g}"

    async def score(self, answer: str, reference: Reference, *, question: str = "") -> Score:
        """Run the tests; the note is the end of the traceback, or says that time was up.

        Raises:
            InputError: the reference holds no tests.
        """
        tests = "\n".join(texts_of(reference, "code"))
        with tempfile.TemporaryDirectory(prefix="cascade-code-") as folder:
            place, mark = Path(folder), secrets.token_hex(8)
            (place / "answer.py").write_text(code_in(answer), encoding="utf-8")
            (place / "tests.py").write_text(tests, encoding="utf-8")
            ended = await self._run(place, mark)
            done = place / "done"
            passed = ended and done.exists() and done.read_text() == mark
            note = _end_of(place / "stderr") if ended else f"not done after {self.timeout_s:g} s"
        return Score(1.0) if passed else Score(0.0, note=note or "ended before the tests did")

    async def _run(self, place: Path, mark: str) -> bool:
        """Whether the process ended by itself in time."""
        # The clock decides; the limit of the processor is for what escapes it.
        seconds = math.ceil(self.timeout_s) + 1
        limits = (self.memory_mb * 2**20, seconds, _LARGEST_FILE)
        with (place / "stderr").open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-I", "-c", _RUNNER, *map(str, limits), mark),
                cwd=place,
                env=_environment(place),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        try:
            await asyncio.wait_for(process.wait(), self.timeout_s)
        except TimeoutError:
            return False
        finally:
            _end_all(process)
            await process.wait()
        return True


def code_in(answer: str) -> str:
    """The Python code of an answer: its fenced blocks, or else all of it."""
    blocks = _FENCED.findall(answer)
    return "\n\n".join(blocks) if blocks else answer


def _environment(place: Path) -> dict[str, str]:
    # Windows cannot start a process without its system folder.
    kept = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}
    home = dict.fromkeys(("HOME", "TMPDIR", "TEMP", "TMP"), str(place))
    return {**kept, **home, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _end_all(process: asyncio.subprocess.Process) -> None:
    """End the process and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            process.kill()  # pragma: no cover
        else:
            os.killpg(process.pid, signal.SIGKILL)


def _end_of(stderr: Path) -> str:
    return stderr.read_bytes()[-_SHOWN:].decode(errors="replace").strip()
