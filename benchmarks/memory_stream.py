"""Heavy: what a memory of lessons does to a stream of questions, with the embedded model live.

    python benchmarks/memory_stream.py --out rows.jsonl [--seeds 5] [--requests 1000]
    python benchmarks/memory_stream.py --out rows.jsonl --show

SmolLM2-135M answers first; an oracle with a price stands for the large model. Each seed runs both
streams of `_streams` without and with a memory, at the same audit rate. An answer is right where
the right one is in it, both normalised, as whole words; the same comparison stands in the audits
and in the memory. What is accepted is decided by the geometric mean token probability against a
threshold fixed beforehand, on other questions of the first stream, with examples and without.

The live model is greedy, so equal prompts are asked once: completions are kept in `<out>.cache`,
and a row says how many were real. Rows are written as they come, seed by seed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from _memory_figures import show
from _streams import STREAMS, Asked, stream
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from pydantic import TypeAdapter

from cascade import Cascade, Price, Tier
from cascade.confidence.answers import normalise
from cascade.ledger import MemoryLedger
from cascade.models import Chunk, Model, Request
from cascade.models.llamacpp import LlamaCppModel
from cascade.models.recording import request_key
from cascade.oversight import Audits
from cascade.policies import ThresholdPolicy
from cascade.state import Completion
from cascade.teaching import Lessons, Terms, open_lessons
from cascade.teaching.memory import Memory, WordIndex
from cascade.testing import ScriptedModel, reply

SYSTEM = "Answer with the answer alone, in as few words as possible."
MAX_TOKENS = 8
PRICES = {"small": Price(input=0.1, output=0.4), "large": Price(input=1.25, output=10.0)}
"""Dollars per 1M tokens: those of `reuse`."""
AUDIT_RATE = 0.2
RIGHT = 0.9
"""Share of accepted answers that are to be right, on the questions that the threshold is from."""
FITTED_ON = 30
"""Questions that the threshold is fixed on, each asked without examples and with two."""
BLOCK = 100
AT_ONCE = 10
"""Questions that are asked together; what they teach is there for the next ones."""
_COMPLETION = TypeAdapter(Completion)


def says(answer: str, right: str) -> bool:
    """Whether the right answer is in an answer, as whole words, both normalised."""
    words = f" {normalise(answer)} ".replace("-", " ")
    return f" {normalise(right)} " in words


class Once(Model):
    """A greedy model that is asked each request once, over all runs with the same file."""

    provider = "once"
    local = True
    returns_logprobs = True

    def __init__(self, model: Model, path: Path) -> None:
        self.inner, self.model, self.real_calls = model, model.model, 0
        self._kept: dict[str, Completion] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                self._kept[row["key"]] = _COMPLETION.validate_python(row["completion"])
        self._file = path.open("a", encoding="utf-8")

    async def _complete(self, request: Request) -> Completion:
        key = request_key(request)
        if key not in self._kept:
            completion = await self.inner.complete(request)
            self.real_calls += 1
            tokens = tuple(replace(token, top=()) for token in completion.logprobs or ())
            self._kept[key] = completion = replace(completion, logprobs=tokens)
            row = {"key": key, "completion": _COMPLETION.dump_python(completion, mode="json")}
            print(json.dumps(row), file=self._file, flush=True)
        return self._kept[key]

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        completion = await self._complete(request)
        yield Chunk(completion.text, completion)

    async def aclose(self) -> None:
        """Nothing: one cascade after the other asks it."""

    async def close(self) -> None:
        """Give back the weights and the file."""
        self._file.close()
        await self.inner.aclose()


@dataclass(slots=True)
class Oracle:
    """Knows what is right, or what it is told to say."""

    right: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)

    def __call__(self, request: Request) -> Completion:
        question = str(request.messages[-1].content)
        answer = self.wrong.get(question) or self.right[question]
        asked = sum(len(str(message.content)) for message in request.messages)
        return reply(answer, input_tokens=asked // 4 + 8, output_tokens=len(answer) // 4 + 2)


def conversation(question: str) -> list[BaseMessage]:
    return [SystemMessage(SYSTEM), HumanMessage(question)]


async def threshold(model: Model) -> float:
    """The lowest that keeps the share of right ones among the accepted at `RIGHT`."""
    found: list[tuple[float, bool]] = []
    questions = list(islice(stream("repeating", -1), 4 * FITTED_ON))
    known, index = {str(n): asked for n, asked in enumerate(questions[FITTED_ON:])}, WordIndex()
    for key, asked in known.items():
        await index.add(("",), key, asked.question)
    for asked in questions[:FITTED_ON]:
        near = await index.near(("",), asked.question, 2)
        shown = [known[hit.run_id] for hit in reversed(near)]
        pairs = [(HumanMessage(s.question), AIMessage(s.answer)) for s in shown]
        examples = [message for pair in pairs for message in pair]
        system, question = conversation(asked.question)
        for messages in ([system, question], [system, *examples, question]):
            request = Request(
                tuple(messages), max_tokens=MAX_TOKENS, temperature=0.0, logprobs=True
            )
            completion = await model.complete(request)
            tokens = completion.logprobs or ()
            mean = sum(token.logprob for token in tokens) / max(1, len(tokens))
            found.append((math.exp(mean), says(completion.text, asked.answer)))
    found.sort(reverse=True)
    rights, best = 0, 1.0
    for n, (score, right) in enumerate(found, 1):
        rights += right
        if rights >= RIGHT * n:
            best = score
    return best


def audit_loss(question: str, draft: str, large: str) -> float:
    del question
    return 0.0 if says(draft, large) else 1.0


@dataclass(slots=True)
class Arm:
    """One cascade with its ledger, and its memory where it has one."""

    cascade: Cascade
    ledger: MemoryLedger
    memory: Memory | None
    lessons: Lessons

    async def settle(self) -> None:
        """Wait for audits, lessons and trials."""
        await self.cascade.audits_done()
        await self.lessons.aclose()
        if self.memory is not None:
            await self.memory.finish()


def arm(
    model: Model, oracle: Oracle, accept: float, store: Any, *, remembers: bool, price: float = 4.0
) -> Arm:
    """The cascade of one arm: they differ by the memory alone."""
    ledger, lessons = MemoryLedger(), Lessons(store, terms={"scripted:*": Terms(may_remember=True)})
    memory = None
    if remembers:
        # However busy the machine is, both arms are to do the same.
        memory = Memory(store, same=says, price_of_error=price, patience_s=60.0)
    cascade = Cascade(
        Tier(model, name="small", price=PRICES["small"], max_tokens=MAX_TOKENS, temperature=0.0),
        Tier(ScriptedModel(oracle, name="oracle"), name="large", price=PRICES["large"]),
        signals=["logprobs"],
        policy=ThresholdPolicy(accept),
        audit_rate=Audits(rate=AUDIT_RATE, compare=audit_loss, seed="memory"),
        ledger=ledger,
        lessons=lessons,
        memory=memory,
    )
    return Arm(cascade, ledger, memory, lessons)


async def run(
    model: Once,
    accept: float,
    name: str,
    seed: int,
    requests: int,
    *,
    remembers: bool,
    price: float,
) -> AsyncGenerator[dict[str, Any]]:
    """The rows of one arm on one stream, one per block."""
    oracle, asked_before = Oracle(), set[str]()
    async with open_lessons("memory://") as store:
        it = arm(model, oracle, accept, store, remembers=remembers, price=price)
        async with it.cascade:
            questions = stream(name, seed)
            for number in range(0, requests, BLOCK):
                before, counted = model.real_calls, len(it.ledger.entries)
                counts = Counter[str]()
                for _ in range(0, BLOCK, AT_ONCE):
                    some = list(islice(questions, AT_ONCE))
                    oracle.right.update((asked.question, asked.answer) for asked in some)
                    results = await it.cascade.abatch([conversation(a.question) for a in some])
                    for asked, result in zip(some, results, strict=True):
                        count(counts, asked, result)
                        counts["repeated"] += asked.question in asked_before
                        asked_before.add(asked.question)
                    await it.settle()
                costs = Counter[str]()
                for entry in it.ledger.entries[counted:]:
                    costs[entry.node] += float(entry.cost_usd or 0)  # type: ignore[assignment]
                groups = [] if it.memory is None else it.memory.groups.all()
                yield {
                    "seed": seed,
                    "stream": name,
                    "memory": remembers,
                    "from": number,
                    "n": BLOCK,
                    "counts": dict(counts),
                    "usd": {node: usd for node, usd in costs.items() if usd},
                    "standing": dict(Counter(g.evidence.standing for g in groups)),
                    "live": [g.name for g in groups if g.evidence.standing == "live"],
                    "real_calls": model.real_calls - before,
                    "threshold": accept,
                    "load": os.getloadavg()[0],
                }


def count(counts: Counter[str], asked: Asked, result: Any) -> None:
    """Add one answer to what is counted, overall and of its kind."""
    right = says(result.answer, asked.answer)
    counts.update(
        {
            "escalated": int(result.escalated),
            "right": int(right),
            f"asked {asked.kind}": 1,
            f"escalated {asked.kind}": int(result.escalated),
            f"right {asked.kind}": int(right),
        }
    )


def arms(seeds: Iterable[int]) -> Iterator[tuple[int, str, bool]]:
    """All arms of a seed before the next seed."""
    for seed in seeds:
        for name in STREAMS:
            for remembers in (False, True):
                yield seed, name, remembers


async def measure(options: argparse.Namespace) -> None:
    """Run what is not in the file yet."""
    live = LlamaCppModel("smollm2-135m", options={"n_threads": 1, "n_parallel": 1})
    model = Once(live, options.out.with_suffix(".cache"))
    done = Counter[tuple[int, str, bool]]()
    if options.out.exists():
        for line in options.out.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            done[row["seed"], row["stream"], row["memory"]] += row["n"]
    accept = await threshold(model)
    print(f"threshold {accept:.4f}, {model.real_calls} real calls", flush=True)
    with options.out.open("a", encoding="utf-8") as out:
        for key in arms(options.only or range(options.seeds)):
            seed, name, remembers = key
            n = options.unrepeated if name == "unrepeated" else options.requests
            if done[key] >= n:
                continue
            price = options.price_of_error
            rows = run(model, accept, name, seed, n, remembers=remembers, price=price)
            async with aclosing(rows):
                async for row in rows:
                    if row["from"] >= done[key]:
                        print(json.dumps(row), file=out, flush=True)
                    if options.until and datetime.now(UTC) >= options.until:
                        await model.close()
                        return
    await model.close()


def clock(text: str) -> datetime:
    """Today at so many hours and minutes, UTC."""
    hours, minutes = text.split(":")
    return datetime.now(UTC).replace(hour=int(hours), minute=int(minutes), second=0)


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", type=int, nargs="*", help="these seeds instead of the first ones")
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument("--unrepeated", type=int, default=1_000, help="requests of that stream")
    parser.add_argument("--price-of-error", type=float, default=4.0, help="of the memory")
    parser.add_argument("--until", type=clock, help="stop after a block at this time (UTC), HH:MM")
    parser.add_argument("--show", action="store_true", help="print the figures of the file alone")
    options = parser.parse_args()
    if not options.show:
        asyncio.run(measure(options))
    show([json.loads(line) for line in options.out.read_text(encoding="utf-8").splitlines()])


if __name__ == "__main__":
    main()
