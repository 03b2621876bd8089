"""Draft tokens that stopping saves, against drafts that it loses.

    python benchmarks/abort.py

The embedded model answers the 240 questions of the demo in its own words (no examples in the
prompt, at most 128 tokens); a recording keeps the answers with their log-probs, and later runs
use it again. `provable` goes through whole cascades (`abort=True`); the shares are bounded on a
random half of the drafts and tried on the other half, 200 times, with the raw score as confidence.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
from dataclasses import dataclass
from pathlib import Path

from langchain_core.messages import HumanMessage

from cascade import Cascade, Tier
from cascade.confidence.early import ROUNDING, EarlyRow, lowest_kept, tail_mean
from cascade.confidence.logprobs import logprob_features
from cascade.demo.questions import load_questions
from cascade.models import Recorder, Request, open_model, request_key
from cascade.models.recording import read_recording
from cascade.policies import ThresholdPolicy
from cascade.state import Completion
from cascade.testing import ScriptedModel

MAX_TOKENS = 128
THRESHOLDS = (0.8, 0.7, 0.6, 0.5)
SHARES = (0.01, 0.02, 0.05, 0.1)
SPLITS = 200


@dataclass(frozen=True, slots=True)
class Drafted:
    """A draft: its score, its worst window, and the tail window after each token from the 16th."""

    score: float
    worst: float
    tokens: int
    tails: tuple[tuple[int, float], ...]

    def tokens_until(self, lowest: float | None) -> int:
        """Tokens until a window is too bad; all of them where none is."""
        if lowest is None:
            return self.tokens
        return next((n for n, mean in self.tails if mean < lowest - ROUNDING), self.tokens)


async def recorded(small: str, path: Path) -> dict[str, Completion]:
    """Question → answer, asked where the recording has none."""
    questions = [question.question for question in load_questions()]
    wanted = {
        text: Request((HumanMessage(text),), MAX_TOKENS, 0.0, logprobs=True) for text in questions
    }
    settings = {"max_tokens": MAX_TOKENS, "temperature": 0.0}
    recorder = Recorder(open_model(small), path, settings=settings)
    known = read_recording(path).answers
    for request in wanted.values():
        if request_key(request) not in known:
            await recorder.complete(request)
    await recorder.aclose()
    known = read_recording(path).answers
    return {text: known[request_key(request)][0] for text, request in wanted.items()}


def draft_of(answer: Completion) -> Drafted:
    """What the rules need to know of an answer."""
    tokens = answer.logprobs or ()
    values = [token.logprob for token in tokens]
    features = logprob_features(tokens)
    ends = [n for n in range(1, len(tokens) + 1) if tokens[n - 1].token.strip()]
    tails = [(n, mean) for n in ends if (mean := tail_mean(values[:n])) is not None]
    return Drafted(
        math.exp(features["logprob_mean"]),
        features["logprob_window_min"],
        len(values),
        tuple(tails),
    )


def provable(answers: dict[str, Completion], threshold: float) -> tuple[int, int, int, int]:
    """(drafts accepted, accepted with abort, draft tokens, draft tokens with abort)."""
    accepted, tokens = [], []
    for abort in (False, True):
        small = Tier(ScriptedModel(answers), max_tokens=MAX_TOKENS)
        policy = ThresholdPolicy(threshold)
        cascade = Cascade(small, ScriptedModel(["large"]), policy=policy, abort=abort)
        results = cascade.batch(list(answers))
        accepted.append(sum(not result.escalated for result in results))
        entries = [entry for result in results for entry in result.ledger.entries]
        drafts = [entry for entry in entries if entry.node == "draft"]
        # the model counts the token that ends an answer, and a character may be several
        tokens.append(sum(entry.output_tokens or 0 for entry in drafts))
    return accepted[0], accepted[1], tokens[0], tokens[1]


def bounded(drafts: list[Drafted], threshold: float, share: float) -> tuple[float, float, float]:
    """Means over the splits: (share of tokens saved, of accepted drafts lost, splits bounded)."""
    saved, lost, found = 0.0, 0.0, 0
    for seed in range(SPLITS):
        mixed = random.Random(seed).sample(drafts, len(drafts))
        half = len(mixed) // 2
        rows: list[EarlyRow] = sorted((d.score, d.worst) for d in mixed[:half])
        lowest = lowest_kept(rows, lambda score: score >= threshold, share)
        tried = mixed[half:]
        kept = [d for d in tried if d.score >= threshold]
        spent = sum(d.tokens_until(lowest) for d in tried)
        saved += 1 - spent / sum(d.tokens for d in tried)
        lost += sum(d.tokens_until(lowest) < d.tokens for d in kept) / max(1, len(kept))
        found += lowest is not None
    return saved / SPLITS, lost / SPLITS, found / SPLITS


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Draft tokens saved, and drafts lost.")
    parser.add_argument("--small", default="llamacpp:smollm2-135m", help="the model that drafts")
    parser.add_argument("--recording", type=Path, default=Path("demo-output/abort.jsonl"))
    given = parser.parse_args()
    answers = asyncio.run(recorded(given.small, given.recording))
    answers = {text: answer for text, answer in answers.items() if answer.logprobs}
    drafts = [draft_of(answer) for answer in answers.values()]
    print(f"{len(drafts)} drafts of {given.small}, {sum(d.tokens for d in drafts):,} tokens")
    print(
        "\nprovable (abort=True)\n"
        "threshold  accepted  accepted with abort  tokens  with abort  saved"
    )
    for threshold in THRESHOLDS:
        before, after, tokens, left = provable(answers, threshold)
        print(f"{threshold:9.1f}{before:10}{after:21}{tokens:8,}{left:12,}{1 - left / tokens:7.0%}")
    print(
        "\nbounded (abort=share)\n"
        "threshold  share  splits that bound it  tokens saved  accepted lost"
    )
    for threshold in THRESHOLDS:
        for share in SHARES:
            saved, lost, found = bounded(drafts, threshold, share)
            print(f"{threshold:9.1f}{share:7.0%}{found:22.0%}{saved:14.1%}{lost:15.2%}")


if __name__ == "__main__":
    main()
