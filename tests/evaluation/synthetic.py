"""Recordings whose truth is known."""

from collections.abc import Iterable

import numpy as np

from cascade.confidence.calibration import MadeFor, ModelIdentity
from cascade.evaluation import Outcome, Transcript
from cascade.evaluation.features import Pair

CHEAP, DEAR = 1e-5, 1e-4

MADE_FOR = MadeFor(
    small=ModelIdentity(name="small"),
    large=ModelIdentity(name="large"),
    task_hash="",
    system_hash=None,
    labels="references",
)


def recording(
    n: int = 200,
    *,
    seed: int = 0,
    informative: bool = True,
    helper: str = "",
    cheap: float | None = CHEAP,
    dear: float | None = DEAR,
    large_right: float = 0.9,
    features: bool = False,
) -> list[Transcript]:
    """Drafts that are right as often as their confidence says, before a large model that is right
    nine times of ten.

    Args:
        n: rows.
        seed: of all that is drawn.
        informative: whether the confidence has anything to do with the truth.
        helper: what another cheap model is: `oracle` is always right, `twin` agrees with the draft.
        cheap: dollars of a draft; None where unknown.
        dear: dollars of a large answer.
        large_right: how often that one is right.
        features: whether the confidence is among the features too, as `p_true`.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        confidence = float(rng.random())
        chance = confidence if informative else 0.5
        right, large = rng.random() < chance, rng.random() < large_right
        models = {
            "small": Outcome(
                correct=float(right),
                cost_usd=cheap,
                confidence=round(confidence, 6),
                output=f"{'right' if right else 'wrong'} {i}",
                features={"p_true": confidence} if features else {},
            ),
            "large": Outcome(correct=float(large), cost_usd=dear, output="large"),
        }
        if helper:
            same = helper == "twin" or right
            models["helper"] = Outcome(
                correct=float(right) if helper == "twin" else 1.0,
                cost_usd=CHEAP,
                output=models["small"].output if same else f"right {i}",
            )
        rows.append(
            Transcript(
                dataset="made",
                id=f"{i:04}",
                prompt=f"question {i}",
                reference=f"right {i}",
                models=models,
            )
        )
    return rows


def pair(rows: Iterable[Transcript] | None = None) -> Pair:
    return Pair(recording() if rows is None else rows, "small", "large")
