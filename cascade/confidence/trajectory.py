"""Signals of a trajectory: how an agent's run went, step by step; of a run under way, so far."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Literal

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from cascade.confidence.base import Asked, Features, Signal
from cascade.state import Completion, Record


class Step(Record):
    """One action of an agent, as text (its calls, or its words), and what came back.

    A step of the kind `submit` proposes the answer, `invalid` could not be read by the environment,
    `end_of_turn` hands back to the user.
    """

    action: str
    observation: str | None = None
    kind: Literal["tool", "submit", "invalid", "end_of_turn"] = "tool"
    is_error: bool = False


def message_steps(messages: Sequence[BaseMessage]) -> list[Step]:
    """The steps of an agent's messages: each of its calls with its result, and its answers."""
    results = {m.tool_call_id: m for m in messages if isinstance(m, ToolMessage)}
    steps = []
    for message in messages:
        if not isinstance(message, AIMessage):
            continue
        for call in message.tool_calls:
            arguments = json.dumps(call["args"], sort_keys=True, default=str)
            result = results.get(call["id"] or "")
            seen = None if result is None else str(result.text)
            failed = result is not None and result.status == "error"
            step = Step(action=f"{call['name']}({arguments})", observation=seen, is_error=failed)
            steps.append(step)
        steps += [
            Step(action=f"{call['name']}({call['args']})", is_error=True, kind="invalid")
            for call in message.invalid_tool_calls
        ]
        if not message.tool_calls and not message.invalid_tool_calls:
            steps.append(Step(action=str(message.text), kind="submit"))
    return steps


def narrated(messages: Sequence[BaseMessage]) -> str:
    """A run as text, for a check and for an agent that takes over."""
    lines = ((step.action, step.observation) for step in message_steps(messages))
    return "\n".join(f"{did} → {seen}" if seen else did for did, seen in lines)


def trajectory_features(steps: Sequence[Step]) -> dict[str, float]:
    """Features of the steps so far, none without a step.

    Among them actions and observations that were there before (`repeats`, `same`), an error of the
    last step (`failing`), words written, in the last step, and read; and `trajectory`, from 0 (no
    answer, or nothing but errors and repetitions) to 1, which a calibration starts from.
    """
    if not steps:
        return {}
    errors = sum(step.is_error for step in steps)
    seen = Counter(step.observation for step in steps if step.observation)
    written = [len(step.action.split()) for step in steps]
    repeats = len(steps) - len({step.action for step in steps})
    answered = any(step.kind == "submit" for step in steps)
    features = {
        "steps": len(steps),
        "errors": errors,
        "error_share": errors / len(steps),
        "repeats": repeats,
        "same": seen.total() - len(seen),
        "failing": steps[-1].is_error,
        "answered": answered,
        "words": sum(written),
        "last": written[-1],
        "read": sum(len((step.observation or "").split()) for step in steps),
    }
    smooth = (1.0 - errors / len(steps)) * (1.0 - repeats / len(steps))
    named = {f"trajectory_{name}": float(value) for name, value in features.items()}
    return {"trajectory": answered * smooth, **named}


class TrajectorySignal(Signal):
    """The features of an agent's run; no score by themselves, and missing where a model drafts."""

    name = "trajectory"
    is_score = False

    def score(self, features: Features) -> None:
        """None: how smoothly a run went tells little until it is calibrated."""

    def read(self, asked: Asked, replies: Sequence[Completion]) -> Features:
        """`trajectory_features`, whether a limit was hit, and the mean log-prob of all calls."""
        features = trajectory_features(message_steps(asked.draft.trajectory))
        tokens = asked.draft.call_logprobs
        if features:
            features["trajectory_limit"] = float(asked.draft.finish_reason == "length")
        if features and tokens:
            features["trajectory_call_logprob"] = fmean(token.logprob for token in tokens)
        return features
