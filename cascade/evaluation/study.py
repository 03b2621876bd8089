"""Fits the shapes a cascade can have on some rows, and applies the chosen one anywhere.

Shapes: a router before the draft; the draft with a threshold; the draft, but skipped where the
prompt alone says so; and with one or three other cheap models asked in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cascade.confidence.gain import GainHead, cross_fitted_gain, fit_gain
from cascade.confidence.metrics import Array
from cascade.confidence.text import TextEncoder
from cascade.errors import ConfigurationError
from cascade.evaluation.recorded import Columns, Level, Recorded, Rows, choose_columns, features
from cascade.evaluation.staged import (
    Mask,
    Rule,
    Stage,
    StagedPolicy,
    choose_policy,
    replay_staged,
)
from cascade.state import Record

FOLDS = 4
HELPERS = (1, 3)

ShapeName = Literal["router", "cascade", "skip+cascade", "panel1", "panel3"]


class FittedStage(Record):
    """What a point of decision looks at, and the head that reads it."""

    level: Level
    helpers: tuple[str, ...]
    columns: Columns
    head: GainHead

    def gain(self, recorded: Recorded, text: Array) -> Array:
        """Expected gain of escalating, per row."""
        return self.head.predict(features(recorded, self.columns, self.helpers, text))

    def stage(self, recorded: Recorded, gain: Array, *, only: bool) -> Stage:
        """With what it costs to get here; a router, the only stage, pays for drafts it keeps."""
        free = np.zeros(len(recorded))
        if self.level == "prompt":
            return Stage(gain, free, recorded.small_cost if only else free)
        paid = recorded.small_cost
        if self.level == "panel":
            paid = recorded.panel(self.helpers).cost
        return Stage(gain, paid, free)


class FittedPolicy(Record):
    """A shape with its heads and thresholds: with the encoder, all that other rows need."""

    shape: ShapeName
    stages: tuple[FittedStage, ...]
    policy: StagedPolicy
    encoder: TextEncoder | None = None

    @property
    def helpers(self) -> tuple[str, ...]:
        """The other models that are asked."""
        return self.stages[-1].helpers

    def replay(self, recorded: Recorded) -> tuple[Mask, Array]:
        """(accepted, cost) per row of any recording of the same models, nothing fitted anew.

        Raises:
            ConfigurationError: the policy looks at topics and has no encoder.
        """
        if self.policy.off:
            return np.zeros(len(recorded), bool), recorded.large_cost
        if self.encoder is None and any(stage.columns.text for stage in self.stages):
            raise ConfigurationError("this policy reads prompts: give it its `encoder`.")
        text = np.zeros((len(recorded), 0))
        if self.encoder is not None:
            text = self.encoder.transform(recorded.prompts)
        only = len(self.stages) == 1
        stages = [s.stage(recorded, s.gain(recorded, text), only=only) for s in self.stages]
        return replay_staged(self.policy, stages, recorded.large_cost)


@dataclass(frozen=True, slots=True)
class Shape:
    """A shape on all rows of a recording: gains are cross-fitted where they fitted the heads."""

    name: ShapeName
    fitted: tuple[FittedStage, ...]
    stages: tuple[Stage, ...]

    def choose(self, recorded: Recorded, fit: Rows, rule: Rule) -> FittedPolicy:
        """Thresholds from the fitting rows alone."""
        policy = choose_policy(
            [stage.take(fit) for stage in self.stages],
            recorded.small_correct[fit],
            recorded.large_correct[fit],
            recorded.large_cost[fit],
            rule,
        )
        return FittedPolicy(shape=self.name, stages=self.fitted, policy=policy)

    def replay(self, chosen: FittedPolicy, recorded: Recorded, rows: Rows) -> tuple[Mask, Array]:
        """(accepted, cost) on some of the rows, without working out the gains again."""
        stages = [stage.take(rows) for stage in self.stages]
        return replay_staged(chosen.policy, stages, recorded.large_cost[rows])


def fit_stage(
    recorded: Recorded,
    text: Array,
    fit: Rows,
    level: Level,
    helpers: tuple[str, ...] = (),
    *,
    trees: bool = True,
) -> FittedStage:
    """A head on the labels of the fitting rows."""
    columns = choose_columns(recorded, level, len(fit), helpers, text.shape[1])
    head = fit_gain(
        features(recorded, columns, helpers, text)[fit],
        recorded.small_correct[fit],
        recorded.large_correct[fit],
        spread=np.array(columns.spread),
        trees=trees,
    )
    return FittedStage(level=level, helpers=helpers, columns=columns, head=head)


def gains(recorded: Recorded, text: Array, fit: Rows, stage: FittedStage) -> Array:
    """Of every row: cross-fitted on the fitting rows, by the head elsewhere; without trees."""
    table = features(recorded, stage.columns, stage.helpers, text)
    found = stage.head.predict(table)
    found[fit] = cross_fitted_gain(
        table[fit],
        recorded.small_correct[fit],
        recorded.large_correct[fit],
        folds=FOLDS,
        spread=np.array(stage.columns.spread),
        trees=False,
    )
    return found


def shapes(recorded: Recorded, text: Array, fit: Rows) -> dict[str, Shape]:
    """All shapes that this recording allows, fitted on its fitting rows; without trees."""

    def staged(level: Level, helpers: tuple[str, ...] = ()) -> tuple[FittedStage, Array]:
        stage = fit_stage(recorded, text, fit, level, helpers, trees=False)
        return stage, gains(recorded, text, fit, stage)

    def shape(name: ShapeName, parts: Sequence[tuple[FittedStage, Array]]) -> None:
        only = len(parts) == 1
        stages = tuple(stage.stage(recorded, gain, only=only) for stage, gain in parts)
        found[name] = Shape(name, tuple(stage for stage, _ in parts), stages)

    found: dict[str, Shape] = {}
    prompt = staged("prompt")
    shape("router", [prompt])
    panels = [helpers for n in HELPERS if len(helpers := recorded.helpers(fit, n)) == n]
    if not recorded.draft.names and not panels:
        return found
    draft = staged("draft")
    if recorded.draft.names:
        shape("cascade", [draft])
        shape("skip+cascade", [prompt, draft])
    for helpers in panels:
        name: ShapeName = "panel1" if len(helpers) == 1 else "panel3"
        shape(name, [prompt, draft, staged("panel", helpers)])
    return found


def best_policy(chosen: dict[str, FittedPolicy]) -> FittedPolicy:
    """The cheapest on the fitting rows; of equals the simplest, in the order of `shapes`."""
    return min(chosen.values(), key=lambda policy: policy.policy.cost)
