"""Heavy: the cascade in another harness, beside the peers that it measures (10 minutes).

    python benchmarks/peers.py --bench ../shared/bench [--only openai_cascade,ours] [--rounds 3]

`--bench` is a folder with `bench.py` and `fake_upstream.py`: one process per driver, requests one
after the other and then 64 at a time, each driver in an environment of its own. They are copied to
`.cache/peers`, as are two drivers of ours: `ours` is the harness's own by the public interface,
`ours_ledger` the same with its ledger in SQLite, crash-safe. Environments that are not there are
made; what cannot be installed is left out, by name. Rounds of all drivers alternate; figures are
medians over them, ratios medians of the ratios within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".cache" / "peers"
REFERENCE = "openai_cascade"
CHOSEN = (
    "openai_cascade,aiohttp_cascade,cascadeflow_agent,cascadeflow_agent_vllm,"
    "cascadeflow_langchain,lg_hand,ours,ours_ledger"
)
ENVIRONMENTS = {
    "srv": ("uvloop", "orjson"),
    "bare": ("httpx", "openai", "uvloop", "orjson"),
    "lg": ("langgraph", "langchain-openai", "openai[aiohttp]", "orjson", "uvloop"),
    "cf": ("cascadeflow==1.2.0", "openai"),
    "cflc": ("cascadeflow==1.2.0", "langchain-openai"),
    "litellm": ("litellm",),
}
"""As the harness names them, with what each has to have."""

DRIVER = """
@driver("ours_ledger", venv="ours", imports="from cascade import Cascade")
async def _(base):
    import tempfile
    from cascade import Cascade, Price, Tier
    from cascade.ledger.store import open_store
    store = open_store(f"sqlite:///{tempfile.mkdtemp(dir=HERE)}/ledger.db")
    c = Cascade(
        small=Tier("openai:small", base_url=base, api_key="x", price=Price(input=1, output=2)),
        large=Tier("openai:large", base_url=base, api_key="x", price=Price(input=10, output=30)),
        ledger=store,
    )
    async def call(p):
        r = await c.ainvoke(p)
        return r.answer, r.tier
    async def close():
        await c.aclose()
        await store.aclose()
    call.close = close
    return call


"""
"""Added to the harness before its main."""

Found = dict[str, Any]
PHASES = {"seq": "1 at a time", "conc": "64 at a time"}


def prepare(bench: Path) -> None:
    """Copy the harness, and add our driver to it."""
    if not (bench / "bench.py").exists():
        raise SystemExit(f"there is no bench.py in {bench}: give its folder with --bench")
    FOLDER.mkdir(parents=True, exist_ok=True)
    harness = (bench / "bench.py").read_text(encoding="utf-8")
    before, main, after = harness.rpartition('if __name__ == "__main__":')
    if not main:
        raise SystemExit(f"{bench / 'bench.py'} has no main to add a driver before")
    (FOLDER / "bench.py").write_text(before + DRIVER.lstrip() + main + after, encoding="utf-8")
    shutil.copyfile(bench / "fake_upstream.py", FOLDER / "fake_upstream.py")


def has(name: str) -> bool:
    """Whether an environment is there, made if it is not; a word why where it cannot be."""
    place = FOLDER / f"{name}.venv"
    if name == "ours" or (place / "ready").exists():
        return True
    print(f"installing {' '.join(ENVIRONMENTS[name])}", file=sys.stderr)
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *ENVIRONMENTS[name]], check=True, timeout=600)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"no environment {name}: {error}", file=sys.stderr)
        return False
    (place / "ready").touch()
    return True


def drivers() -> dict[str, str]:
    """The environment of each driver of the harness."""
    command = [sys.executable, "bench.py", "--list"]
    listed = subprocess.run(command, cwd=FOLDER, check=True, stdout=subprocess.PIPE, text=True)
    rows = (line.split() for line in listed.stdout.splitlines())
    return {row[0]: row[1] for row in rows}


def one_round(names: list[str], requests: int, number: int) -> Found:
    """What the harness finds in one round of all drivers."""
    file = FOLDER / f"round-{number}.json"
    command = [sys.executable, "bench.py", "--only", ",".join(names), "--n", str(requests)]
    quiet = {**os.environ, "OURS_PYTHON": sys.executable}
    subprocess.run(
        [*command, "--rounds", "1", "--no-import", "--json", str(file)],
        cwd=FOLDER,
        check=True,
        stdout=sys.stderr,
        env=quiet,
    )
    found: Found = json.loads(file.read_text(encoding="utf-8"))["results"]
    return found


def table(rounds: list[Found], names: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Medians for each phase and driver that ran in every round."""
    ran = [name for name in names if all("seq" in found.get(name, {}) for found in rounds)]
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for phase in PHASES:
        figures[phase] = {}
        for name in ran:
            rows = [found[name][phase] for found in rounds]
            keys = ("rps", "cpu_ms_per_req", "p50_ms", "p99_ms")
            row = {key: statistics.median(row[key] for row in rows) for key in keys}
            for other in (REFERENCE, "cascadeflow_agent", "lg_hand"):
                if other in ran:
                    ratios = [
                        found[name][phase]["rps"] / found[other][phase]["rps"] for found in rounds
                    ]
                    row[f"times_{other}"] = round(statistics.median(ratios), 2)
            figures[phase][name] = row
    return figures


def show(figures: dict[str, dict[str, dict[str, float]]]) -> None:
    """A table for each phase."""
    for phase, title in PHASES.items():
        print(f"\n{title:<24}   per_s  cpu_ms   p50_ms   p99_ms  × openai × cascadeflow × lg_hand")
        for name, row in figures[phase].items():
            plain = f"{row['rps']:8.0f}{row['cpu_ms_per_req']:8.2f}"
            plain += f"{row['p50_ms']:9.2f}{row['p99_ms']:9.2f}"
            times = "".join(
                f"{row.get(f'times_{other}', float('nan')):{width}.2f}"
                for other, width in ((REFERENCE, 10), ("cascadeflow_agent", 14), ("lg_hand", 10))
            )
            print(f"{name:<24}{plain}{times}")


def main() -> None:
    """Measure and print."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--bench", type=Path, default=ROOT.parent / "shared" / "bench")
    parser.add_argument("--only", default=CHOSEN)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    prepare(given.bench)
    wanted, known = given.only.split(","), drivers()
    for name in wanted:
        if name not in known:
            raise SystemExit(f"no driver {name!r}: give some of {', '.join(known)}")
    has("srv")
    there = {place: has(place) for place in {known[name] for name in wanted}}
    names = [name for name in wanted if there[known[name]]]
    for name in set(wanted) - set(names):
        print(f"{name} is left out: it has no environment", file=sys.stderr)
    rounds = [one_round(names, given.requests, number) for number in range(given.rounds)]
    figures = table(rounds, names)
    if given.json:
        print(json.dumps({"benchmark": "peers", "rounds": given.rounds, **figures}))
        return
    show(figures)


if __name__ == "__main__":
    main()
