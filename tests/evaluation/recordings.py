"""Synthetic transcripts: what is true of them is known."""

from __future__ import annotations

from typing import Any

import numpy as np

from cascade.evaluation import Outcome, Transcript

WORDS = ("river", "city", "sum", "year", "name", "count", "which", "not")


def rows(
    n: int = 200,
    *,
    seed: int = 0,
    small_cost: float | None = 0.00001,
    large_cost: float | None = 0.0001,
    large_right: float = 0.95,
    signals: bool = True,
    hard_prompts: bool = False,
    helper: bool = False,
    votes: bool = False,
    output_tokens: int = 1,
) -> list[Transcript]:
    """Drafts that are right as often as their options' log-probs say.

    With `hard_prompts` the word "hard" or "easy" in the prompt says which drafts are wrong, and
    the log-probs say nothing. With `helper` a third model agrees with the drafts that are right.
    """
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        p = 0.05 + 0.9 * rng.random()
        right = float(rng.random() < p)
        words = " ".join(rng.choice(WORDS, 6))
        if hard_prompts:
            words = f"{words} {'easy' if right else 'hard'} {'easy' if right else 'hard'}"
            p = 0.5
        found.append(
            Transcript(
                dataset="synthetic",
                id=str(i),
                prompt=f"{words}?\nA. one\nB. two",
                reference="A",
                models=_models(
                    right,
                    float(rng.random() < large_right),
                    _signals(p, right, signals=signals, votes=votes),
                    (small_cost, large_cost),
                    helper=helper,
                    output_tokens=output_tokens,
                ),
            )
        )
    return found


def _signals(p: float, right: float, *, signals: bool, votes: bool) -> dict[str, Any]:
    if votes:
        many = round(10 * p)
        own, other = ("A", "B") if right else ("B", "A")
        return {"votes": [own] * many + [other] * (10 - many), "n_samples": 10}
    if not signals:
        return {}
    # Three options, so that the best one may have a probability below one half.
    own = max(p, 0.34)
    return {"option_logprobs": np.log([own, 0.6 * (1 - own), 0.4 * (1 - own)]).tolist()}


def _models(
    right: float,
    large: float,
    signals: dict[str, Any],
    costs: tuple[float | None, float | None],
    *,
    helper: bool,
    output_tokens: int,
) -> dict[str, Outcome]:
    def outcome(correct: float, cost: float | None, **more: Any) -> Outcome:
        said = "A" if correct else "B"
        return Outcome(
            correct=correct,
            input_tokens=9,
            output_tokens=output_tokens,
            cost_usd=cost,
            output=said,
            **more,
        )

    found = {
        "small": outcome(right, costs[0], signals=signals),
        "large": outcome(large, costs[1]),
    }
    if helper:
        found["helper"] = outcome(1.0, costs[0])
    return found


def write(path: Any, transcripts: list[Transcript]) -> Any:
    """As a file."""
    path.write_text("".join(row.to_line() for row in transcripts))
    return path
