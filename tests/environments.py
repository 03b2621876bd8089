"""Packages that are too heavy, or too foreign, to be a dependency: a folder for each set.

It is made where this is CI, under `.cache`, and used wherever it is found.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import floors

FOLDER = floors.ROOT / ".cache" / "packages"
UV = floors.ROOT / "scripts" / "uv.sh"


class NoPackagesError(Exception):
    """They cannot be had here; the message says why."""


def packages(*wanted: str, without: str = "nothing") -> Path:
    """The folder that holds these packages and what they need, for `PYTHONPATH`; one that they need
    and a test does not may be left out.

    Raises:
        NoPackagesError: it is not there and must not or cannot be made.
    """
    folder = FOLDER / re.sub(r"[^\w.]+", "-", " ".join(wanted))
    if folder.exists():
        return folder
    if "CI" not in os.environ:
        raise NoPackagesError(f"{' '.join(wanted)} is not here; CI=true installs it")
    part = folder.with_name(f"{folder.name}.{os.getpid()}")
    part.mkdir(parents=True)
    ours = part / "ours.txt"
    ours.write_text("".join(f"{each.name}=={each.version}\n" for each in distributions()))
    left_out = part / "left_out.txt"
    left_out.write_text(f"{without}; python_version < '3'\n")
    command = [UV, "pip", "install", "--quiet", "--python", sys.executable, "--target", part]
    command += ["--override", left_out]
    # In our versions, where they go with them; else in theirs, which are found before ours.
    for more in (["--constraint", ours], []):
        done = subprocess.run(
            [*command, *wanted, *more], check=False, capture_output=True, text=True, timeout=600
        )
        if done.returncode == 0:
            return part.rename(folder)
    shutil.rmtree(part)
    raise NoPackagesError(f"{' '.join(wanted)} cannot be installed: {done.stderr}")
