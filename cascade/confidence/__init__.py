"""Signals about a draft, and what turns them into one confidence."""

from cascade.confidence.estimate import Calibrator, Estimate
from cascade.confidence.logprobs import logprob_features
from cascade.confidence.p_true import check_messages, p_true
from cascade.confidence.score import combine
from cascade.confidence.validity import check_schema, objection, repetition

__all__ = [
    "Calibrator",
    "Estimate",
    "check_messages",
    "check_schema",
    "combine",
    "logprob_features",
    "objection",
    "p_true",
    "repetition",
]
