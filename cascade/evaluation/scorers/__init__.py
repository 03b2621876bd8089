"""Scorers: how right an answer is, from 0 to 1.

`get_scorer("numeric:1%")` by its spec, `as_scorer(…)` for a user's own function too; all of them
are awaited the same way, `await scorer.score(answer, reference, question=…)`.
"""

from cascade.evaluation.scorers.base import (
    FunctionScorer,
    Reference,
    Score,
    ScoreFunction,
    Scorer,
    TextScorer,
)
from cascade.evaluation.scorers.code import CodeScorer
from cascade.evaluation.scorers.fields import JsonScorer
from cascade.evaluation.scorers.judge import JudgeScorer
from cascade.evaluation.scorers.numeric import NumericScorer
from cascade.evaluation.scorers.registry import SCORERS, as_scorer, get_scorer

__all__ = [
    "SCORERS",
    "CodeScorer",
    "FunctionScorer",
    "JsonScorer",
    "JudgeScorer",
    "NumericScorer",
    "Reference",
    "Score",
    "ScoreFunction",
    "Scorer",
    "TextScorer",
    "as_scorer",
    "get_scorer",
]
