"""Runs every benchmark of benchmarks/ that needs nothing heavy: `make bench ARGS=--json`.

A benchmark that needs more than this machine has (a GPU, a server, recordings, hours) starts its
docstring with `Heavy:` and is left out here, by name; so is one that does not know an option given.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


def left_out(source: str, about: str, arguments: list[str]) -> str:
    """Why a benchmark is not run with these arguments; empty where it is."""
    if about.startswith("Heavy:"):
        return about
    options = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    unknown = [option for option in options if f'"{option}"' not in source]
    return f"it has no {', '.join(unknown)}" if unknown else ""


def main() -> int:
    """Run each in a process of its own; the exit code is 1 when one of them failed."""
    failed, arguments = [], sys.argv[1:]
    for path in sorted(FOLDER.glob("[!_]*.py")):
        source = path.read_text(encoding="utf-8")
        about = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        if why := left_out(source, about, arguments):
            print(f"{path.name}: left out: {why}", file=sys.stderr)
            continue
        print(f"{path.name}: {about}", file=sys.stderr)
        if subprocess.run([sys.executable, path, *arguments], check=False).returncode:
            failed.append(path.name)
    if failed:
        print("failed: " + ", ".join(failed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
