"""What a watch for drift looks for, what it does about it, and what an alarm says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

from pydantic import Field

from cascade.errors import ConfigurationError
from cascade.policies import CAUTIONS, Caution
from cascade.state import Record

Reaction = Literal["warn", "audit", "tighten", "large_only"]
"""What is done at an alarm: nothing but telling, or being as careful as the word says."""

Kind = Literal["signals", "escalations", "harm", "calibration"]
"""What an alarm is about: a signal or the confidence moved, the escalation rate did, more accepted
drafts are wrong than was promised, or the calibration is void."""


_REACTIONS = f"give one of {', '.join(map(repr, get_args(Reaction)))}"

_LEAST = {"window": 20, "run_length": 3, "reference": 50, "error_odds": 1, "audit_factor": 1}
"""Smaller windows and references tell chance and change apart badly."""


class Alarm(Record):
    """Something is not as it was.

    Attributes:
        chart: which signal, or `confidence`, `escalation rate`, `harm`, `calibration`.
        text: what was found, for a person.
        figures: the same for a program.
        reaction: what the options say about this kind.
        before, caution: how careful the cascade was before the alarm, and is after it: never less.
    """

    kind: Kind
    chart: str
    text: str
    figures: Mapping[str, float] = Field(default_factory=dict)
    reaction: Reaction
    before: Caution
    caution: Caution
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Options of `Cascade(drift=…)`.

    Args:
        signals, escalations, harm, calibration: the reaction to each kind of alarm.
        window: values of a signal that are compared with the reference at a time.
        alpha: chance of a false alarm of one signal in one window.
        run_length: requests between false alarms of the escalation rate, on average, at least.
        max_harm: α of which audits must not show more; by default that of the certificate, and
            without either harm is not watched.
        delta: chance that a harm of α or less is ever called more.
        reference: decisions from which is learned what is usual.
        error_odds: at `tighten` the odds of an error count so many times as high.
        audit_factor: from `audit` on, audits are so many times as frequent.
        on_alarm: called with each alarm, after the reply; may be async. What it raises is logged.

    Raises:
        ConfigurationError: a value cannot work.
    """

    signals: Reaction = "audit"
    escalations: Reaction = "audit"
    harm: Reaction = "large_only"
    calibration: Reaction = "warn"
    window: int = 200
    alpha: float = 0.001
    run_length: float = 100_000.0
    max_harm: float | None = None
    delta: float = 0.05
    reference: int = 500
    error_odds: float = 2.0
    audit_factor: float = 4.0
    on_alarm: Callable[[Alarm], Awaitable[None] | None] | None = None

    def __post_init__(self) -> None:
        for kind, reaction in self.reactions.items():
            if reaction not in get_args(Reaction):
                raise ConfigurationError(f"Drift({kind}={reaction!r}): {_REACTIONS}.")
        for name in ("alpha", "delta", "max_harm"):
            share = getattr(self, name)
            if share is not None and not 0.0 < share < 1.0:
                raise ConfigurationError(f"Drift({name}={share!r}): a number between 0 and 1.")
        for name, least in _LEAST.items():
            if not getattr(self, name) >= least:
                raise ConfigurationError(
                    f"Drift({name}={getattr(self, name)!r}): at least {least}."
                )

    @classmethod
    def everywhere(cls, reaction: Reaction) -> Drift:
        """The same reaction to every kind of alarm.

        Raises:
            ConfigurationError: there is no such reaction.
        """
        if reaction not in get_args(Reaction):
            raise ConfigurationError(
                f"drift={reaction!r}: {_REACTIONS}, or Drift(…) with one for each kind of alarm."
            )
        return cls(signals=reaction, escalations=reaction, harm=reaction, calibration=reaction)

    @property
    def reactions(self) -> Mapping[Kind, Reaction]:
        """The reaction to each kind of alarm."""
        return {
            "signals": self.signals,
            "escalations": self.escalations,
            "harm": self.harm,
            "calibration": self.calibration,
        }

    @property
    def may_stop_drafts(self) -> bool:
        """Whether an alarm can end in nothing being drafted."""
        return "large_only" in self.reactions.values()


def stricter(a: Caution, b: Caution) -> Caution:
    """The more careful of the two."""
    return CAUTIONS[max(CAUTIONS.index(a), CAUTIONS.index(b))]


def after(caution: Caution, reaction: Reaction) -> Caution:
    """The caution after an alarm: at least that of before."""
    return caution if reaction == "warn" else stricter(caution, reaction)


def to_drift(drift: Drift | str | None) -> Drift | None:
    """The options that `Cascade(drift=…)` means.

    Raises:
        ConfigurationError: it is no such option.
    """
    if drift is None or isinstance(drift, Drift):
        return drift
    if isinstance(drift, str):
        return Drift.everywhere(drift)  # type: ignore[arg-type] # checked there
    raise ConfigurationError(f"drift={drift!r}: give Drift(…) or the name of a reaction.")


def broken_promise(max_harm: float, n: int) -> str:
    """An alarm of harm in words, but for the figure that raised it."""
    return (
        f"more accepted drafts are wrong than the {max_harm:.1%} of all requests that was "
        f"promised: after {n:,} requests"
    )
