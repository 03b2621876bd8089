"""Heavy: the cascade in another harness, beside the peers that it measures (15 minutes).

    python benchmarks/peers.py --bench ../shared/bench [--only openai_cascade,ours] [--rounds 3]

`--bench` is a folder with `bench.py` and `fake_upstream.py`: one process per driver, requests one
after the other and then 64 at a time, each driver in an environment of its own. They are copied to
`.cache/peers`, and `ours_ledger` is added: the harness's `ours` with its ledger in SQLite.
Environments that are not there are made; what cannot be installed is left out, by name. Rounds of
all drivers alternate; figures are medians, ratios medians of the ratios within a round.
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
CHOSEN = "openai_cascade,aiohttp_cascade,cascadeflow_agent,lg_hand,ours,ours_ledger"
PEERS = ("openai_cascade", "cascadeflow_agent", "lg_hand")
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
    from cascade.ledger import open_store
    store = open_store(f"sqlite:///{tempfile.mkdtemp(dir=HERE)}/ledger.db")
    c = Cascade(
        Tier("openai:small", base_url=base, api_key="x", price=Price(input=1, output=2)),
        Tier("openai:large", base_url=base, api_key="x", price=Price(input=10, output=30)),
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


def has(name: str) -> bool:
    """Whether an environment is there, made if it is not."""
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


def one_round(names: list[str], requests: int) -> Any:
    """What the harness finds in one round of all drivers."""
    file = FOLDER / "round.json"
    command = [sys.executable, "bench.py", "--only", ",".join(names), "--n", str(requests)]
    command += ["--rounds", "1", "--no-import", "--json", str(file)]
    env = {**os.environ, "OURS_PYTHON": sys.executable}
    subprocess.run(command, cwd=FOLDER, check=True, stdout=sys.stderr, env=env)
    return json.loads(file.read_text(encoding="utf-8"))["results"]


def main() -> None:
    """Measure and print."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--bench", type=Path, default=ROOT.parent / "shared" / "bench")
    parser.add_argument("--only", default=CHOSEN)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=1000)
    given = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    harness = (given.bench / "bench.py").read_text(encoding="utf-8")
    before, main, after = harness.rpartition('if __name__ == "__main__":')
    (FOLDER / "bench.py").write_text(before + DRIVER.lstrip() + main + after, encoding="utf-8")
    shutil.copyfile(given.bench / "fake_upstream.py", FOLDER / "fake_upstream.py")
    command = [sys.executable, "bench.py", "--list"]
    listed = subprocess.run(command, cwd=FOLDER, check=True, stdout=subprocess.PIPE, text=True)
    places = {words[0]: words[1] for words in map(str.split, listed.stdout.splitlines())}
    has("srv")
    names = [name for name in given.only.split(",") if has(places[name])]
    rounds = [one_round(names, given.requests) for _ in range(given.rounds)]
    ran = [name for name in names if all("seq" in found.get(name, {}) for found in rounds)]
    for phase, title in (("seq", "1 at a time"), ("conc", "64 at a time")):
        print(f"\n{title}: requests/s, CPU ms; requests/s and CPU × those of {', '.join(PEERS)}")
        for name in ran:
            row = f"{name:<20}"
            for key in ("rps", "cpu_ms_per_req"):
                row += f"{statistics.median(found[name][phase][key] for found in rounds):9.2f}"
            for other in PEERS if set(PEERS) <= set(ran) else ():
                for key in ("rps", "cpu_ms_per_req"):
                    pairs = [f[name][phase][key] / f[other][phase][key] for f in rounds]
                    row += f"{statistics.median(pairs):8.2f}"
            print(row)


if __name__ == "__main__":
    main()
