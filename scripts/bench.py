"""Runs every benchmark of benchmarks/ that needs nothing heavy: `make bench ARGS=--json`.

A benchmark that needs more than this machine has (a GPU, a server, hours) starts its docstring
with `Heavy:` and is left out here, by name.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


def main() -> int:
    """Run each in a process of its own; the exit code is 1 when one of them failed."""
    failed = []
    for path in sorted(FOLDER.glob("*.py")):
        about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if path.name.startswith("_"):
            continue
        if about.startswith("Heavy:"):
            print(f"{path.name}: left out: {about.partition(chr(10))[0]}", file=sys.stderr)
            continue
        print(f"{path.name}: {about.partition(chr(10))[0]}", file=sys.stderr)
        if subprocess.run([sys.executable, path, *sys.argv[1:]], check=False).returncode:
            failed.append(path.name)
    if failed:
        print("failed: " + ", ".join(failed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
