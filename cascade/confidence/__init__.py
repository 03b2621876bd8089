"""Signals about a draft, and what turns them into one confidence."""

from cascade.confidence.estimate import Calibrator, Estimate
from cascade.confidence.hostile import as_data, as_json, speaks_of_grading
from cascade.confidence.logprobs import logprob_features
from cascade.confidence.p_true import check_messages, p_true
from cascade.confidence.score import combine
from cascade.confidence.validity import check_schema, objection, repetition

__all__ = [
    "Calibrator",
    "Estimate",
    "as_data",
    "as_json",
    "check_messages",
    "check_schema",
    "combine",
    "logprob_features",
    "objection",
    "p_true",
    "repetition",
    "speaks_of_grading",
]
