"""Heavy: what the package weighs: cold starts, installed size, memory (5 minutes).

    python benchmarks/footprint.py [--only starts,sizes,memory] [--json]

starts: wall time of fresh processes, medians: `cascade ask` until it has answered (a model server
on loopback), `cascade serve` until `/readyz` says yes. sizes: the wheel of this tree in fresh
environments, without pip: megabytes as they are on the disk with bytecode left out, and packages;
each extra beside the base alone. memory: peak of a process with 512 questions under way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import import_time
from _drivers import DRIVERS, PROGRAM, serving
from _upstream import upstream

ROOT = Path(__file__).resolve().parent.parent
UV = str(ROOT / "scripts" / "uv.sh")
LEFT_OUT = ("ray",)
"""Extras of hundreds of megabytes."""
RUNS, UNDER_WAY = 5, 512
MEGABYTE = 1_000_000
Figures = dict[str, dict[str, float]]


def _median_ms(action: Callable[[], None]) -> float:
    taken = []
    action()  # bytecode and the disk's cache are warm afterwards
    for _ in range(RUNS):
        begun = time.perf_counter()
        action()
        taken.append(1000 * (time.perf_counter() - begun))
    return statistics.median(taken)


def starts() -> Figures:
    """Milliseconds until a fresh process is of use."""
    with (
        import_time.with_bytecode(),
        tempfile.TemporaryDirectory() as name,
        upstream() as port,
    ):
        folder, address = Path(name), f"http://127.0.0.1:{port}/v1"
        told = {"OPENAI_BASE_URL": address, "OPENAI_API_KEY": "none"}
        question = [PROGRAM, "ask", "Which city?", "--json"]
        question += ["--small", "openai:small", "--large", "openai:large"]

        def ask() -> None:
            env = {**os.environ, **told}
            subprocess.run(question, check=True, cwd=folder, env=env, capture_output=True)

        def serve() -> None:
            with serving(address, folder):
                pass

        return {
            "cascade ask, answered": {"ms": _median_ms(ask)},
            "cascade serve, ready and ended": {"ms": _median_ms(serve)},
        }


def _installed(folder: Path, wheel: Path, extra: str) -> dict[str, float]:
    place = folder / (extra or "base")
    subprocess.run([UV, "venv", "--quiet", str(place)], check=True)
    python = str(place / "bin" / "python")
    what = f"{wheel}[{extra}]" if extra else str(wheel)
    install = [UV, "pip", "install", "--quiet", "--python", python, "--link-mode", "copy", what]
    subprocess.run(install, check=True)
    (packages,) = place.glob("lib/python*/site-packages")
    files = [file for file in packages.rglob("*") if file.is_file() and file.suffix != ".pyc"]
    return {
        "mb": sum(file.stat().st_size for file in files) / MEGABYTE,
        "packages": len(list(packages.glob("*.dist-info"))),
    }


def sizes() -> Figures:
    """Megabytes and packages of the base, and of each extra with it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [name for name in project["optional-dependencies"] if name not in LEFT_OUT]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        subprocess.run(build, check=True, cwd=ROOT, capture_output=True)
        (wheel,) = folder.glob("*.whl")
        found = {"wheel": {"mb": wheel.stat().st_size / MEGABYTE, "packages": 1}}
        for extra in ["", *extras]:
            found[f"with {extra}" if extra else "base"] = _installed(folder, wheel, extra)
    return found


async def _under_way(port: int) -> dict[str, float]:
    def peak_mb() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MEGABYTE

    with tempfile.TemporaryDirectory() as folder:
        async with DRIVERS["ours"](f"http://127.0.0.1:{port}/v1", Path(folder)) as ask:
            for number in range(50):
                await ask(f"Warm {number}?")
            idle = peak_mb()
            await asyncio.gather(*(ask(f"Question {n}?") for n in range(UNDER_WAY)))
            at_once = peak_mb()
            for n in range(20):
                await asyncio.gather(*(ask(f"Question {n}, {m}?") for m in range(UNDER_WAY)))
            return {
                "idle_mb": idle,
                "peak_mb": at_once,
                "kb_per_question": 1000 * (at_once - idle) / UNDER_WAY,
                "after_20_more_mb": peak_mb(),
            }


def memory() -> Figures:
    """Megabytes of a process of its own, with an upstream that thinks for a tenth of a second."""
    with upstream(late_ms=100) as port:
        command = [sys.executable, __file__, "--under-way", str(port)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {f"{UNDER_WAY} under way": json.loads(done.stdout)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="starts,sizes,memory")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--under-way", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.under_way:
        print(json.dumps(asyncio.run(_under_way(given.under_way))))
        return
    parts: dict[str, Callable[[], Figures]] = {"starts": starts, "sizes": sizes, "memory": memory}
    chosen = given.only.split(",")
    if unknown := set(chosen) - parts.keys():
        parser.error(f"--only {', '.join(unknown)}: give some of {', '.join(parts)}")
    figures = {name: parts[name]() for name in chosen}
    if given.json:
        print(json.dumps({"benchmark": "footprint", **figures}))
        return
    for rows in figures.values():
        print()
        for name, row in rows.items():
            print(f"{name:<30}" + "   ".join(f"{value:9,.1f} {key}" for key, value in row.items()))


if __name__ == "__main__":
    main()
