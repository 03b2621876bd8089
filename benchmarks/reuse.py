"""Heavy: what showing the draft to the large model costs and is worth, against writing anew.

    python benchmarks/reuse.py --out reuse.jsonl

Recorded live. Each question of the demo is asked in its own words, without examples. The small
model drafts, the large one answers alone, and then again with the draft, to approve or correct it:
all three through the graph, escalating everything. Tokens and answers are those of the models; the
dollars are those tokens at the prices below. The file is transcripts, which `cascade evaluate`
reads too; a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

from langchain_core.messages import HumanMessage

from cascade import Cascade, Price, Tier
from cascade.collect.collecting import AlwaysEscalate
from cascade.demo.questions import Question, take
from cascade.evaluation import Outcome, Transcript, TranscriptWriter, read_transcripts
from cascade.evaluation.reuse import compare, with_draft
from cascade.evaluation.scorers.text import contains_any
from cascade.evaluation.text import reviews_words
from cascade.policies.reuse import VERSION
from cascade.state import Completion, LedgerEntry
from cascade.testing import ScriptedModel

SMALL = "llamacpp:smollm2-135m"
LARGE = "llamacpp:.models/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
PRICES = {"small": (0.1, 0.4), "large": (1.25, 10.0)}
"""Dollars per 1M tokens, in and out."""


def tier(model: Any, kind: str, max_tokens: int) -> Tier:
    """A model at its price."""
    input_usd, output_usd = PRICES[kind]
    price = Price(input=input_usd, output=output_usd)
    return Tier(model, price=price, max_tokens=max_tokens, temperature=0.0)


async def answered(
    cascade: Cascade, question: Question
) -> tuple[Completion, str, list[LedgerEntry]]:
    """The draft, the large model's answer, and what was paid."""
    state: Any = await cascade.graph.ainvoke({"messages": [HumanMessage(question.question)]})
    return state["draft"].completion, str(state["messages"][-1].text), state["ledger"]


def outcome(question: Question, text: str, entry: LedgerEntry, **more: Any) -> Outcome:
    """What one call made of a question."""
    right: Any = [question.answer, *question.accepted]
    return Outcome(
        correct=contains_any(text, right),
        input_tokens=entry.input_tokens,
        output_tokens=entry.output_tokens,
        cost_usd=None if entry.cost_usd is None else float(entry.cost_usd),
        output=text,
        latency_ms=entry.latency_ms,
        **more,
    )


async def record(options: argparse.Namespace) -> None:
    """Ask what is not in the file yet."""
    n, most, policy = options.questions, options.max_tokens, AlwaysEscalate()
    large = tier(options.large, "large", most)
    anew = Cascade(tier(options.small, "small", most), large, policy=policy)
    with TranscriptWriter(options.out) as writer:
        for question in take(n):
            if question.id in writer.ids:
                continue
            draft, text, entries = await answered(anew, question)
            again = tier(ScriptedModel([draft]), "small", most)
            shown = Cascade(again, large, policy=policy, reuse="correct")
            _, reviewed, more = await answered(shown, question)
            booked = {entry.node: entry for entry in [*more, *entries]}
            review = booked.get("review")
            models = {
                options.small: outcome(question, draft.text, booked["draft"]),
                options.large: outcome(question, text, booked["expert"]),
            }
            if review is not None:
                models[with_draft(options.large)] = outcome(
                    question,
                    reviewed,
                    review,
                    approved=review.note.startswith("approved"),
                    instruction=VERSION,
                )
            prompt, right = question.question, question.answer
            writer.write(
                Transcript(
                    dataset="demo", id=question.id, prompt=prompt, reference=right, models=models
                )
            )
    await anew.aclose()


def main() -> None:
    """Record and print the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", default=SMALL)
    parser.add_argument("--large", default=LARGE)
    parser.add_argument("--questions", type=int, default=80)
    parser.add_argument("--max-tokens", type=int, default=96)
    options = parser.parse_args()
    asyncio.run(record(options))
    rows = list(read_transcripts(options.out))
    print(reviews_words(compare(rows, options.small, options.large)))


if __name__ == "__main__":
    main()
