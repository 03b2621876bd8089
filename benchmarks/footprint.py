"""Heavy: what the package weighs: import, cold starts, installed size, memory (5 minutes).

    python benchmarks/footprint.py [--only starts,sizes,memory] [--extras aiohttp,store] [--json]

starts: wall time of fresh processes, medians: the import, `cascade ask` until it has answered (a
model server on loopback), `cascade serve` until `/readyz` says yes. sizes: the wheel of this tree
in fresh environments, without pip: megabytes as they are on the disk with bytecode left out, and
packages; each extra beside the base alone. memory: peak of a process with 512 questions under way.
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
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import import_time
from _drivers import DRIVERS, PROGRAM, serving
from _upstream import upstream

ROOT = Path(__file__).resolve().parent.parent
UV = str(ROOT / "scripts" / "uv.sh")
EXTRAS = "aiohttp,calibrate,langchain,llamacpp,otel,plot,prometheus,store,postgres,service"
UNDER_WAY = 512
MEGABYTE = 1_000_000
Figures = dict[str, dict[str, float]]


def _median_ms(runs: int, action: Callable[[], None]) -> float:
    taken = []
    action()  # bytecode and the disk's cache are warm afterwards
    for _ in range(runs):
        begun = time.perf_counter()
        action()
        taken.append(1000 * (time.perf_counter() - begun))
    return statistics.median(taken)


def starts(runs: int) -> Figures:
    """Milliseconds until a fresh process is of use."""
    found = {name: {"ms": row["ms"]} for name, row in import_time.measure(runs).items()}
    with import_time.with_bytecode(), ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = stack.enter_context(upstream())
        variables = {
            **os.environ,
            "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1",
            "OPENAI_API_KEY": "none",
        }
        asked = [PROGRAM, "ask", "Which city?", "--small", "openai:small", "--large"]

        def ask() -> None:
            command = [*asked, "openai:large", "--json"]
            subprocess.run(command, check=True, cwd=folder, env=variables, capture_output=True)

        found["cascade ask, answered"] = {"ms": _median_ms(runs, ask)}
        address = f"http://127.0.0.1:{port}/v1"

        def serve() -> None:
            with serving(address, folder):
                pass

        found["cascade serve, ready and ended"] = {"ms": _median_ms(runs, serve)}
    return found


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


def sizes(extras: list[str]) -> Figures:
    """Megabytes and packages of the base, and of each extra with it."""
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
    parser.add_argument("--extras", default=EXTRAS)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--under-way", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.under_way:
        print(json.dumps(asyncio.run(_under_way(given.under_way))))
        return
    parts: dict[str, Callable[[], Figures]] = {
        "starts": lambda: starts(given.runs),
        "sizes": lambda: sizes([extra for extra in given.extras.split(",") if extra]),
        "memory": memory,
    }
    if given.runs < 2:
        parser.error(f"--runs {given.runs}: a median takes 2 or more")
    chosen = given.only.split(",")
    for name in chosen:
        if name not in parts:
            raise SystemExit(f"no part {name!r}: give some of {', '.join(parts)}")
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
