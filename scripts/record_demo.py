"""Record the answers of the demo's large model anew.

    python scripts/record_demo.py --model llamacpp:.models/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf

Takes a few minutes on two cores. The file begins with whose answers these are: the model, the
SHA-256 of its weights, the date and the settings. It replaces the one that the package ships only
when every question was answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

from pydantic import JsonValue
from rich.progress import track

from cascade.demo.prompts import MAX_TOKENS
from cascade.demo.questions import load_questions
from cascade.models import Recorder, Request, open_model

SHIPPED = Path(__file__).resolve().parent.parent / "cascade" / "demo" / "recorded.jsonl"
THREADS = 1


async def record(model_name: str, path: Path) -> None:
    """Ask every question once and write the answers to `path`, which must not exist yet."""
    local = model_name.startswith("llamacpp:")
    options = {"n_parallel": 1, "n_threads": THREADS} if local else None
    settings: dict[str, JsonValue] = {
        "temperature": 0.0,
        "max_tokens": MAX_TOKENS,
        "questions": len(load_questions()),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, shared with other work",
    }
    if local:
        settings |= {"library": f"xllamacpp {version('xllamacpp')}", **(options or {})}
    recorder = Recorder(open_model(model_name, options=options), path, settings=settings)
    right = 0
    for question in track(load_questions(), description=model_name):
        request = Request(
            tuple(question.messages),
            max_tokens=MAX_TOKENS,
            temperature=0.0,
            logprobs=recorder.returns_logprobs,
        )
        right += question.is_right((await recorder.complete(request)).text)
    await recorder.aclose()
    print(f"{right} of {len(load_questions())} answers are right")


def slim(path: Path) -> None:
    """Leave out what the demo does not need: alternatives of tokens, digits, and folder names."""
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    slimmed = [header]
    for line in lines:
        entry = json.loads(line)
        answer = entry["answer"]
        answer["model"] = Path(answer["model"]).name
        if answer.get("logprobs"):
            answer["logprobs"] = [[token, round(p, 4), []] for token, p, *_ in answer["logprobs"]]
        for name in ("latency_ms", "busy_ms"):
            if answer.get(name) is not None:
                answer[name] = round(answer[name], 1)
        slimmed.append(json.dumps(entry, ensure_ascii=False, separators=(",", ":")))
    path.write_text("\n".join(slimmed) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="provider:name of the large model")
    parser.add_argument("--out", type=Path, default=SHIPPED, help="default: the shipped file")
    arguments = parser.parse_args()
    unfinished = arguments.out.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    asyncio.run(record(arguments.model, unfinished))
    slim(unfinished)
    unfinished.replace(arguments.out)
    print(f"{arguments.out.stat().st_size / 1000:.0f} kB in {arguments.out.name}")


if __name__ == "__main__":
    main()
