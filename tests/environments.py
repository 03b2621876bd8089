"""Environments of the tests' own, for what is too heavy, or too foreign, to be a dependency.

One has what it was asked for, and beside it all that this environment has, this package among
it. It is made where this is CI, under `.cache`, and used wherever it is found.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from importlib.metadata import distributions
from pathlib import Path

import floors

FOLDER = floors.ROOT / ".cache" / "environments"
UV = floors.ROOT / "scripts" / "uv.sh"
AGAIN_S = 600


class NoEnvironmentError(Exception):
    """It cannot be had here; the message says why."""


def made(folder: Path, make: Callable[[], None]) -> None:
    """Have a folder made by one process; the others find it made, or why it cannot be.

    Raises:
        NoEnvironmentError: it cannot be made, or could not in the last ten minutes.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    ready, why = folder / "ready", folder.with_name(f"{folder.name}.failed")
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if ready.exists():
            return
        if why.exists() and time.time() - why.stat().st_mtime < AGAIN_S:
            raise NoEnvironmentError(why.read_text())
        try:
            make()
        except NoEnvironmentError as error:
            why.write_text(str(error))
            raise
        ready.touch()


def python_with(*packages: str) -> Path:
    """The Python of an environment with these packages, made if it is not there and this is CI.

    Raises:
        NoEnvironmentError: it is not there and must not or cannot be made.
    """
    version = "{}.{}".format(*sys.version_info)
    name = "-".join([version, *(package.replace("[", "-").rstrip("]") for package in packages)])
    folder = FOLDER / "".join(letter for letter in name if letter.isalnum() or letter in "-._")
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.exists():
        return python
    wanted = " ".join(packages)
    if "CI" not in os.environ:
        raise NoEnvironmentError(f"no environment with {wanted} here; CI=true makes one")
    made(folder, lambda: _make(folder, python, packages))
    return python


def _make(folder: Path, python: Path, packages: tuple[str, ...]) -> None:
    what = f"no environment with {' '.join(packages)}"
    shutil.rmtree(folder, ignore_errors=True)
    done([UV, "venv", "--quiet", "--python", sys.executable, folder], what, timeout=100)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    beside = Path(done([python, "-c", where], what, timeout=60).strip())
    rest = _not_ours(folder, python, packages, what)
    install = [UV, "pip", "install", "--quiet", "--no-deps", "--python", python]
    done([*install, "--requirement", rest], what, timeout=200)
    # What this environment has is found there. As mere paths: nothing of it starts by itself, such
    # as the measuring of coverage, which would take a foreign program most of its time.
    (beside / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n{floors.ROOT}\n")


def _not_ours(folder: Path, python: Path, packages: tuple[str, ...], what: str) -> Path:
    """A list of what the packages need and this environment has not, or has in another version."""
    wanted, ours, rest = (folder / f"{name}.txt" for name in ("wanted", "ours", "rest"))
    wanted.write_text("\n".join(packages))
    here = {re.sub(r"[-_.]+", "-", one.name).lower(): one.version for one in distributions()}
    ours.write_text("\n".join(f"{name}=={version}" for name, version in here.items()))
    resolve = [UV, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python", python]
    resolve += [wanted, "--output-file", rest]
    try:
        done([*resolve, "--constraint", ours], what, timeout=100)
    except NoEnvironmentError:  # they do not go with our versions: theirs are put before those
        done(resolve, what, timeout=100)
    known = set(ours.read_text().splitlines())
    needed = [line for line in rest.read_text().splitlines() if line not in known]
    rest.write_text("\n".join(needed))
    return rest


def done(command: Sequence[str | Path], what: str, *, timeout: float) -> str:
    """What a command of the making printed.

    Raises:
        NoEnvironmentError: it failed or took too long; the message begins with `what`.
    """
    try:
        return subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=timeout
        ).stdout
    except subprocess.SubprocessError as error:
        said = getattr(error, "stderr", None) or ""
        raise NoEnvironmentError(f"{what}: {error} {said}") from error
