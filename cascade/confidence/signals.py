"""Signals by name: what `signals=[…]` takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cascade.confidence.base import FEATURES, Asked, Check, Probe, Signal, UserSignal, take
from cascade.confidence.checks import PTrueSignal, VerbalisedSignal
from cascade.confidence.free import LogprobSignal, PromptSignal, TextSignal
from cascade.confidence.samples import SelfConsistency
from cascade.confidence.trajectory import TrajectorySignal
from cascade.errors import ConfigurationError

__all__ = [
    "BUILT_IN",
    "Asked",
    "LogprobSignal",
    "PTrueSignal",
    "Probe",
    "Signal",
    "SignalLike",
    "UserSignal",
    "take",
    "to_signals",
    "wordings",
]

SignalLike = str | Signal | Check
"""A name, a signal, or a function `(question, answer) → value`."""

BUILT_IN: dict[str, type[Signal]] = {
    "logprobs": LogprobSignal,
    "text": TextSignal,
    "prompt": PromptSignal,
    "trajectory": TrajectorySignal,
    "p_true": PTrueSignal,
    "verbalised": VerbalisedSignal,
    "self_consistency": SelfConsistency,
}
"""Signals that need no arguments, by name."""


def to_signals(wanted: Sequence[SignalLike]) -> tuple[Signal, ...]:
    """The signals that are meant, cheapest first.

    Raises:
        ConfigurationError: an unknown name, two signals of one name, or a signal of the user's
            with the name of a built-in signal or feature.
    """
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
                "cascade.confidence, and your own functions (question, answer) → value."
            )
        return BUILT_IN[item]()
    if not callable(item):
        raise ConfigurationError(
            f"signals=[…, {item!r}]: give a name, a signal or a function (question, answer)."
        )
    return UserSignal(item)


def _reserved() -> set[str]:
    """Names that mean something else in results and calibrations."""
    return {"raw", *BUILT_IN, *(feature for names in FEATURES.values() for feature in names)}
