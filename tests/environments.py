"""Environments of the tests' own, for what is too heavy, or too foreign, to be a dependency.

One has what it was asked for, and beside it all that this environment has, this package among
it. It is made where this is CI, under `.cache`, and used wherever it is found.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import floors

FOLDER = floors.ROOT / ".cache" / "environments"


class NoEnvironmentError(Exception):
    """It cannot be had here; the message says why."""


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
    shutil.rmtree(folder, ignore_errors=True)
    try:
        venv.create(folder, with_pip=True)
        ours = Path(sysconfig.get_path("purelib"))
        beside = Path(
            subprocess.run(
                [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                check=True,
                capture_output=True,
                text=True,
                timeout=60,
            ).stdout.strip()
        )
        # What this environment has is found there, and pip sees it and installs only the rest.
        (beside / "ours.pth").write_text(f"import site; site.addsitedir({str(ours)!r})\n")
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", *packages],
            check=True,
            capture_output=True,
            text=True,
            timeout=300,
        )
    except subprocess.SubprocessError as error:
        said = getattr(error, "stderr", None) or ""
        raise NoEnvironmentError(f"no environment with {wanted}: {error} {said}") from error
    ready.touch()
    return python
