"""Debian's packages, for what tests start and this machine may lack."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path


def found_or_installed(
    find: Callable[[], Path | None], package: str, timeout: float
) -> tuple[Path | None, str]:
    """What `find` finds, after installing the package where this is CI and we may; and why not."""
    found, why = find(), ""
    if found is None and "CI" in os.environ and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", package]):
            done = subprocess.run(
                command,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
            why = f" ({' '.join(command)} failed: {done.stderr})" if done.returncode else why
        found = find()
    return found, why
