"""Looks for bytes that make a reader fail, guided by which lines they reach (atheris, libFuzzer).

    python scripts/fuzz.py --seconds 20                          each reader for so long
    python scripts/fuzz.py --only gguf_heads --corpus .cache/fuzz

Prints a line for each reader: executions, inputs that reached something new, findings. A finding is
any error that the reader's documentation does not name, a law that does not hold, or ten seconds
for one input; the input is kept in the corpus' folder. Exits with 1 if there was one.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ATHERIS = "atheris==3.0.0"
SLOWEST_S = 10
PACKAGES = ["cascade", "tomllib", "yaml"]
READERS = (
    "cascade.confidence",
    "cascade.evaluation.transcripts",
    "cascade.ledger.prices",
    "cascade.models",
    "cascade.questions",
    "cascade.service.lines",
    "cascade.service.protocols",
    "cascade.service.reading",
)
"""What of these packages guides the search: to follow all of them takes three times as long to
begin."""

LONGEST = 4096
"""Bytes of an input."""


@dataclass(frozen=True)
class Searched:
    """What came of one reader."""

    name: str
    executions: int
    corpus: int
    findings: Sequence[Path]
    said: str

    @property
    def line(self) -> str:
        """In words."""
        found = ", ".join(str(path) for path in self.findings) or "none"
        return f"{self.name:20} {self.executions:>9,} {self.corpus:>6} {found}"


def search(
    name: str, read: Callable[[bytes], None], seeds: Sequence[bytes], folder: Path, seconds: int
) -> Searched:
    """Search in a process of its own: libFuzzer ends the one that it runs in."""
    corpus, began = folder / name, folder / f"{name}.seeds"
    for each in (corpus, began):
        each.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (began / str(number)).write_bytes(seed)
    options = [
        str(corpus),
        str(began),
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST}",
        f"-timeout={SLOWEST_S}",
        f"-dict={_dictionary(folder / f'{name}.words', seeds)}",
        f"-artifact_prefix={folder / name}-",
        "-print_final_stats=1",
        "-rss_limit_mb=2048",
    ]
    log = folder / f"{name}.log"
    child = os.fork()
    if child == 0:
        _become(log, _keeping(read, folder / f"{name}-crash"), options)
    _, status = os.waitpid(child, 0)
    said = log.read_text(errors="replace")
    executed = re.findall(r"number_of_executed_units:\s*(\d+)", said)
    kinds = ("crash", "timeout", "oom", "slow-unit")
    found = [path for kind in kinds for path in folder.glob(f"{name}-{kind}-*")]
    if not executed and not found:
        raise SystemExit(f"the search in {name} ended with {status}: {said[-2000:]}")
    number = int(executed[-1]) if executed else 0
    return Searched(name, number, len(list(corpus.iterdir())), found, said)


def _dictionary(path: Path, seeds: Sequence[bytes]) -> Path:
    """Words of the seeds, which chance alone would hardly find."""
    words = {word for seed in seeds for word in re.findall(rb'"([\w.$-]{1,40})"', seed)}
    lines = [b'"\\"' + word + b'\\""' for word in sorted(words | {b"id"})]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def _keeping(read: Callable[[bytes], None], path: Path) -> Callable[[bytes], None]:
    """A reader that keeps what it fails with."""

    def kept(data: bytes) -> None:
        try:
            read(data)
        except BaseException:
            path.with_name(f"{path.name}-{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)
            raise

    return kept


def _become(log: Path, read: Callable[[bytes], None], options: list[str]) -> None:
    """Be the process that searches; it never returns."""
    import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore] # noqa: PLC0415

    logging.getLogger("cascade").setLevel(logging.CRITICAL)
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    atheris.Setup([sys.argv[0], *options], read)
    atheris.Fuzz()
    os._exit(0)


def _others() -> list[str]:
    """Modules that read no bytes of others."""
    files = [path.relative_to(ROOT) for path in (ROOT / "cascade").rglob("*.py")]
    files += [Path("cascade") / path.relative_to(ROOT) for path in (ROOT / "agents").glob("*.py")]
    names = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files}
    return sorted(name for name in names if not name.startswith(READERS))


def _elsewhere() -> int:
    """Do the same in an environment of the tests' own that has atheris."""
    sys.path.append(str(ROOT / "tests"))
    from environments import (  # type: ignore[import-not-found, unused-ignore] # noqa: PLC0415
        NoEnvironmentError,
        python_with,
    )

    try:
        python = python_with(ATHERIS)
    except NoEnvironmentError as error:
        print(error, file=sys.stderr)
        return 2
    return subprocess.run([str(python), __file__, *sys.argv[1:]], check=False).returncode


def main() -> int:
    """Search, and tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=20, help="for each reader")
    parser.add_argument("--only", action="append", help="these readers, by name")
    parser.add_argument("--corpus", type=Path, help="a folder that keeps what was reached")
    given = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        return _elsewhere()
    import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore] # noqa: PLC0415

    sys.dont_write_bytecode = True
    with atheris.instrument_imports(PACKAGES, _others(), enable_loader_override=False):
        from fuzz_seeds import SEEDS  # noqa: PLC0415 - what is imported here is instrumented
        from fuzz_targets import TARGETS  # noqa: PLC0415
    folder = given.corpus or Path(tempfile.mkdtemp(prefix="cascade-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{'reader':20} {'runs':>9} {'corpus':>6} findings", flush=True)
    findings = 0
    for name in given.only or sorted(TARGETS):
        searched = search(name, TARGETS[name], SEEDS[name], folder, given.seconds)
        findings += len(searched.findings)
        print(searched.line, flush=True)
        if searched.findings:
            lines = [line for line in searched.said.splitlines() if not line.startswith("#")]
            print(*(line[:300] for line in lines[-40:]), sep="\n", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
