"""Heavy: draft tokens that `Abort` saves, against acceptable drafts that it loses (3 minutes).

    python benchmarks/abort.py [--questions 240] [--model llamacpp:…]

The embedded model answers the demo's questions in its own words, with at most 128 tokens. First,
`Abort()` in whole cascades: what provably cannot be accepted. Then the bound of a calibration
(`cascade.confidence.signals`), on a random half of the drafts, tried on the other half, 200 times.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.messages import HumanMessage

from cascade import Cascade, Tier
from cascade.confidence.base import WINDOW, worst_window
from cascade.confidence.signals import ROUNDING, drafts_needed, lowest_kept
from cascade.evaluation import read_examples
from cascade.middleware import Abort
from cascade.models import Request, open_model
from cascade.state import Completion
from cascade.testing import ScriptedModel

QUESTIONS = Path(__file__).parents[1] / "cascade" / "demo" / "questions.jsonl"
MAX_TOKENS, SPLITS, SEED = 128, 200, 1
THRESHOLDS, SHARES = (0.8, 0.7, 0.6, 0.5), (0.02, 0.05, 0.1)


async def drafted(model: str, n: int) -> dict[str, Completion]:
    """The drafts of the model itself, by question."""
    small = open_model(model)
    examples = sorted(read_examples(QUESTIONS), key=lambda example: example.id)[:n]
    texts = [example.question for example in examples]
    asked = [Request((HumanMessage(t),), MAX_TOKENS, 0.0, logprobs=True) for t in texts]
    found = {text: await small.complete(one) for text, one in zip(texts, asked, strict=True)}
    await small.aclose()
    return {text: draft for text, draft in found.items() if draft.logprobs}


async def provable(drafts: dict[str, Completion], threshold: float) -> str:
    """Answers that are accepted, and tokens, without and with `Abort()`."""
    accepted, tokens = [], []
    for middleware in ([], [Abort()]):
        small = Tier(ScriptedModel(drafts, name="small"), max_tokens=MAX_TOKENS)
        cascade = Cascade(
            small, ScriptedModel("-", name="large"), threshold=threshold, middleware=middleware
        )
        results = [await cascade.ainvoke(text) for text in drafts]
        accepted.append([r.answer for r in results if not r.escalated])
        tokens.append(sum(r.ledger.entries[0].output_tokens or 0 for r in results))
    kept = "the same" if accepted[0] == accepted[1] else "OTHERS"
    return f"{len(accepted[0]):>10}{kept:>12}{1 - tokens[1] / tokens[0]:>14.1%}"


def bounded(drafts: Sequence[Completion], threshold: float, share: float) -> str | None:
    """What the bound of one half saves and loses on the other; None where no half has enough."""
    chance, saved, lost = random.Random(SEED), list[float](), list[float]()
    seen = [_seen(draft) for draft in drafts]
    for _ in range(SPLITS):
        chance.shuffle(seen)
        fit, test = seen[: len(seen) // 2], seen[len(seen) // 2 :]
        rows = sorted((one["score"], one["worst"]) for one in fit)
        lowest = lowest_kept(rows, lambda score: score >= threshold, share)
        if lowest is None:
            continue
        read = [_read(one["tails"], lowest, one["tokens"]) for one in test]
        saved.append(1 - sum(read) / sum(one["tokens"] for one in test))
        good = [(one, n) for one, n in zip(test, read, strict=True) if one["score"] >= threshold]
        if good:
            lost.append(statistics.fmean(n < one["tokens"] for one, n in good))
    if not lost:
        return None
    enough = len(saved) / SPLITS
    return f"{enough:>10.0%}{statistics.fmean(saved):>14.1%}{statistics.fmean(lost):>14.2%}"


def _seen(draft: Completion) -> dict[str, Any]:
    """The score of a draft, its worst window, and its tail window after each token."""
    assert draft.logprobs is not None
    values = [token.logprob for token in draft.logprobs]
    tails = [
        worst_window(values[n - WINDOW : n]) if n >= WINDOW else None
        for n in range(1, len(values) + 1)
    ]
    return {
        "score": math.exp(statistics.fmean(values)),
        "worst": worst_window(values),
        "tokens": len(values),
        "tails": tails,
    }


def _read(tails: Sequence[float | None], lowest: float, tokens: int) -> int:
    """Tokens that are read until a window is too bad."""
    bad = (n for n, mean in enumerate(tails, 1) if mean is not None and mean < lowest - ROUNDING)
    return next(bad, tokens)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=240)
    parser.add_argument("--model", default="llamacpp:smollm2-135m")
    given = parser.parse_args()
    drafts = asyncio.run(drafted(given.model, given.questions))
    total = sum(len(draft.logprobs or ()) for draft in drafts.values())
    print(f"{len(drafts)} drafts of {given.model}, {total:,} tokens")
    print(f"\n{'threshold':<10}{'accepted':>10}{'with Abort':>12}{'tokens saved':>14}")
    for threshold in THRESHOLDS:
        print(f"{threshold:<10}{asyncio.run(provable(drafts, threshold))}")
    print(f"\n{'threshold':<10}{'share':>6}{'splits':>10}{'tokens saved':>14}{'drafts lost':>14}")
    for threshold in THRESHOLDS:
        for share in SHARES:
            row = bounded(list(drafts.values()), threshold, share)
            said = f"{'':>10}needs {drafts_needed(share)} accepted drafts" if row is None else row
            print(f"{threshold:<10}{share:>6.0%}{said}")


if __name__ == "__main__":
    main()
