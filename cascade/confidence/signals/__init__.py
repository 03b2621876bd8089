"""Signals about a draft, each with its price in calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cascade.confidence.score import FEATURES
from cascade.confidence.signals.base import Ask, Asked, Check, Probe, Signal, UserSignal, take
from cascade.confidence.signals.free import (
    LogprobSignal,
    PromptSignal,
    TextSignal,
    TokenQuantile,
    prompt_features,
)
from cascade.confidence.signals.samples import (
    Agreement,
    PromptVotes,
    SelfConsistency,
    SemanticAgreement,
)
from cascade.confidence.signals.self_ask import PTrueSignal, VerbalisedSignal
from cascade.errors import ConfigurationError

__all__ = [
    "BUILT_IN",
    "Agreement",
    "Ask",
    "Asked",
    "Check",
    "LogprobSignal",
    "PTrueSignal",
    "Probe",
    "PromptSignal",
    "PromptVotes",
    "SelfConsistency",
    "SemanticAgreement",
    "Signal",
    "SignalLike",
    "TextSignal",
    "TokenQuantile",
    "UserSignal",
    "VerbalisedSignal",
    "prompt_features",
    "take",
    "to_signals",
    "wordings",
]

SignalLike = str | Signal | Check
"""What `signals=[…]` takes: a name, a signal, or a function `(question, answer) → value`."""

BUILT_IN: dict[str, type[Signal]] = {
    "logprobs": LogprobSignal,
    "text": TextSignal,
    "prompt": PromptSignal,
    "token_quantile": TokenQuantile,
    "p_true": PTrueSignal,
    "verbalised": VerbalisedSignal,
    "self_consistency": SelfConsistency,
}
"""Signals that need no arguments, by name."""


def to_signals(wanted: Sequence[SignalLike]) -> tuple[Signal, ...]:
    """The signals that are meant, cheapest first.

    Raises:
        ConfigurationError: an unknown name, two signals of one name, or a signal of the user's
            that is called as one that is built in, or as one of its features.
    """
    if isinstance(wanted, str) or not isinstance(wanted, Sequence):
        raise ConfigurationError(f"signals={wanted!r}: give a list, such as ['logprobs'].")
    if isinstance(wanted, str) or not isinstance(wanted, Sequence):
        raise ConfigurationError(f"signals={wanted!r}: give a list, such as ['logprobs'].")
    signals = [_to_signal(item) for item in wanted]
    names = [signal.name for signal in signals]
    for signal in signals:
        if isinstance(signal, UserSignal) and signal.name in _reserved():
            raise ConfigurationError(
                f"a signal of yours is called {signal.name!r}, which is built in: "
                "UserSignal(check, name=…) gives it another name."
            )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(f"two signals are called {twice[0]!r}: give one another name.")
    return tuple(sorted(signals, key=lambda signal: signal.calls))


def wordings(names: Iterable[str]) -> dict[str, str]:
    """The words of the checks among these signals, by name and digest (`Signal.wording`)."""
    known = {name: BUILT_IN[name].wording for name in names if name in BUILT_IN}
    return {name: wording for name, wording in known.items() if wording}


def _to_signal(item: SignalLike) -> Signal:
    if isinstance(item, Signal):
        return item
    if isinstance(item, str):
        if item not in BUILT_IN:
            raise ConfigurationError(
                f"there is no signal {item!r}; there are: {', '.join(BUILT_IN)}, the signals of "
                "cascade.confidence.signals, and your own functions (question, answer) → value."
            )
        return BUILT_IN[item]()
    return UserSignal(item)


def _reserved() -> set[str]:
    """Names that mean something else in results and calibrations."""
    return {"raw", *BUILT_IN, *(feature for names in FEATURES.values() for feature in names)}
