"""From what a user says to what the graph needs: tiers, signals, calibrations, a policy."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.agents import Task
from cascade.agents.border import LocalOnly, read_local_only
from cascade.agents.hedging import Hedging
from cascade.agents.stopping import LOST, Abort
from cascade.confidence.bindings import ModelIdentity, digest
from cascade.confidence.early import drafts_needed
from cascade.confidence.signals import Signal, SignalLike, to_signals, wordings
from cascade.errors import (
    CalibrationMismatchError,
    ConfigurationError,
    MissingDependencyError,
)
from cascade.policies import (
    CertifiedPolicy,
    DeadlinePolicy,
    EconomicPolicy,
    Policy,
    ThresholdPolicy,
)
from cascade.policies.reuse import Reuse, Wanted, check_reuse
from cascade.state import Usage
from cascade.tiers import ModelLike, OpenTier, keep_local, open_tiers

if TYPE_CHECKING:
    from cascade.confidence.calibration import Calibration


def open_pair_or_tiers(
    small: ModelLike | None,
    large: ModelLike | None,
    tiers: Sequence[ModelLike],
    local_only: LocalOnly = False,
) -> tuple[OpenTier, ...]:
    """The tiers of a cascade, given as a pair or as a list.

    With `local_only` there is nothing but names and prices of those that are elsewhere.

    Raises:
        ConfigurationError: they cannot be had like this; the message says why.
    """
    opened = _open_pair_or_tiers(small, large, tiers)
    return opened if read_local_only(local_only, "local_only") is None else keep_local(opened)


def _open_pair_or_tiers(
    small: ModelLike | None, large: ModelLike | None, tiers: Sequence[ModelLike]
) -> tuple[OpenTier, ...]:
    if tiers:
        if small is not None or large is not None:
            raise ConfigurationError("give either small and large, or tiers, not both.")
        return open_tiers(tiers)
    if small is None or large is None:
        missing = "small" if small is None else "large"
        raise ConfigurationError(
            f"{missing} is missing: Cascade(small='ollama:qwen2.5:3b', large='openai:gpt-5.1')."
        )
    return open_tiers([small, large], ("small", "large"))


def load_calibration(calibrator: str | Path | Calibration | None) -> Calibration | None:
    """A calibration, read from its file where a path is given.

    Raises:
        MissingDependencyError: numpy is not installed.
        ConfigurationError: the file cannot be read.
    """
    if calibrator is None or not isinstance(calibrator, str | Path):
        return calibrator
    if find_spec("numpy") is None:
        raise MissingDependencyError(
            'a calibration needs numpy: pip install "agent-cascade[calibrate]".'
        )
    from cascade.confidence.calibration import Calibration  # noqa: PLC0415 - needs numpy

    return Calibration.load(calibrator)


def choose_signals(
    wanted: Sequence[SignalLike], calibration: Calibration | None
) -> tuple[Signal, ...]:
    """The signals to take: the user's, or those of the calibration.

    Raises:
        CalibrationMismatchError: the calibration knows other signals, or other words of a check.
    """
    if calibration is None:
        return to_signals(wanted)
    names = calibration.signals
    try:
        signals = to_signals(wanted or names)
    except ConfigurationError as error:
        raise CalibrationMismatchError(
            f"the calibration was made with the signals {list(names)}: give yours as signals=[…] "
            f"too ({error})"
        ) from error
    given = [signal.name for signal in signals]
    if sorted(given) != sorted(names):
        raise CalibrationMismatchError(
            f"the calibration was made with the signals {sorted(names)}, not {sorted(given)}: "
            "calibrate again."
        )
    for name, wording in wordings(names).items():
        if calibration.wordings.get(name) != wording:
            raise CalibrationMismatchError(
                f"the calibration was made with another wording of the check {name!r}: "
                "calibrate again (`cascade calibrate`)."
            )
    return tuple(sorted(signals, key=lambda signal: names.index(signal.name)))


def choose_policy(
    tiers: Sequence[OpenTier],
    calibration: Calibration | None,
    *,
    policy: Policy | None = None,
    price_of_error: float | None = None,
    max_harm: float | None = None,
    escalation_budget: float | None = None,
    deadline: float | None = None,
) -> Policy:
    """The one policy that the options mean.

    Raises:
        ConfigurationError: several were given, or one that needs prices or a calibration
            without them.
    """
    given = {
        "policy": policy,
        "price_of_error": price_of_error,
        "max_harm": max_harm,
        "escalation_budget": escalation_budget,
    }
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ConfigurationError(
            f"{' and '.join(named)} were {'both ' if len(named) == 2 else ''}given: each of them "
            "decides alone. Give one."
        )
    if price_of_error is not None:
        policy = _economic(price_of_error, tiers, calibration)
    elif max_harm is not None:
        policy = _certified(max_harm, calibration)
    elif escalation_budget is not None:
        if calibration is None:
            raise ConfigurationError("escalation_budget needs calibrator=…, made by `calibrate`.")
        policy = ThresholdPolicy.at_rate(calibration.confidences, escalation_budget)
    policy = policy or ThresholdPolicy()
    if deadline is None:
        return policy
    if not deadline > 0:
        raise ConfigurationError(f"deadline={deadline}: seconds, above 0.")
    if max_harm is not None:
        raise ConfigurationError(
            f"max_harm={max_harm} promises that what its certificate does not cover is escalated; "
            f"deadline={deadline} accepts it when time runs out. Give one of them."
        )
    return DeadlinePolicy(policy)


def _economic(
    price_of_error: float, tiers: Sequence[OpenTier], calibration: Calibration | None
) -> EconomicPolicy:
    for tier in tiers[1:]:
        if tier.pricing.cost(Usage(input_tokens=1, output_tokens=1)) is None:
            raise ConfigurationError(
                f"price_of_error weighs an error against what {tier.name} ({tier.model.name}) "
                f"costs, which is unknown ({tier.pricing.source}). Set "
                "Tier(…, price=Price(input=…, output=…)), dollars per 1M tokens."
            )
    p_large = None if calibration is None else calibration.p_large
    return EconomicPolicy(price_of_error, 1.0 if p_large is None else p_large)


def _certified(max_harm: float, calibration: Calibration | None) -> CertifiedPolicy:
    if not 0.0 < max_harm < 1.0:
        raise ConfigurationError(
            f"max_harm={max_harm}: a share of requests is between 0 and 1, such as 0.05."
        )
    how = f"make one with `cascade calibrate … --max-harm {max_harm}`."
    if calibration is None:
        raise ConfigurationError(f"max_harm={max_harm} needs calibrator=…: {how}")
    fitting = [c for c in calibration.certificates if c.max_harm <= max_harm]
    if not fitting:
        there = ", ".join(f"{c.max_harm:.1%}" for c in calibration.certificates) or "none"
        raise ConfigurationError(
            f"max_harm={max_harm}: the calibration has certificates for {there}; {how}"
        )
    return CertifiedPolicy(max(fitting, key=lambda certificate: certificate.coverage))


def check_abort(
    wanted: bool | float,
    tiers: Sequence[OpenTier],
    calibration: Calibration | None,
    signals: Sequence[Signal],
    judge: object | None,
    tools: Sequence[Any] = (),
) -> None:
    """Refuse to stop drafts where nobody could tell when.

    Raises:
        ConfigurationError: with what is in the way.
    """
    if wanted is False:
        return
    if wanted is not True and not 0.0 < wanted < 1.0:
        raise ConfigurationError(
            f"abort={wanted}: True, False, or the share of acceptable drafts that may be lost, "
            "such as 0.01."
        )
    if judge is not None:
        raise ConfigurationError(
            f"abort={wanted} stops what log-probs rule out; verifier={judge!r} judges whole "
            "drafts. Give one of them."
        )
    if tools:
        raise ConfigurationError(
            f"abort={wanted} stops no draft that may call tools, and tools=… lets each of them. "
            "Leave one of them out; tools that come with some calls (bind_tools, with_task) are "
            "no hindrance."
        )
    drafting = tiers[:-1]
    if not any(tier.model.streams_logprobs for tier in drafting):
        names = ", ".join(tier.model.name for tier in drafting) or "no tier"
        raise ConfigurationError(
            f"abort={wanted} needs a draft whose stream has log-probs, which {names} does not "
            "give. Models of openai:, ollama: and llamacpp: do."
        )
    if calibration is None:
        _check_impossible(wanted, drafting, signals)
    else:
        _check_early(wanted, calibration)


def _check_impossible(
    wanted: bool | float, drafting: Sequence[OpenTier], signals: Sequence[Signal]
) -> None:
    if wanted is not True:
        raise ConfigurationError(
            f"abort={wanted}: a share of lost drafts needs calibrator=…, made by `calibrate`. "
            "abort=True stops what provably cannot be accepted."
        )
    if not any(tier.settings.max_tokens for tier in drafting):
        raise ConfigurationError(
            "abort=True without a calibration needs to know how long a draft may become: set "
            f"Tier({drafting[0].model.name!r}, max_tokens=…), or give calibrator=…."
        )
    if signals and not any(signal.name == "logprobs" for signal in signals):
        given = ", ".join(signal.name for signal in signals)
        raise ConfigurationError(
            f"abort=True without a calibration needs the signal logprobs, and signals are {given}."
        )


def _check_early(wanted: bool | float, calibration: Calibration) -> None:
    share = LOST if wanted is True else wanted
    if len(calibration.early) < drafts_needed(share):
        raise ConfigurationError(
            f"abort={wanted}: the calibration knows the log-probs of {len(calibration.early)} "
            f"drafts, and {drafts_needed(share)} that would be accepted bound a loss of "
            f"{share:.2%}. Calibrate on more, with the signal logprobs, or allow a larger share."
        )


def choose_abort(
    wanted: bool | float, small: OpenTier, calibration: Calibration | None
) -> Abort | None:
    """Which drafts may be stopped, as `check_abort` found it possible."""
    if wanted is False:
        return None
    early = {} if calibration is None else {small.name: calibration.early}
    return Abort(LOST if wanted is True else wanted, early)


def choose_hedging(
    wanted: bool | float, tiers: Sequence[OpenTier], deadline: float | None, local_only: LocalOnly
) -> Hedging | None:
    """Whether the large model is asked beside a draft where time is short.

    Raises:
        ConfigurationError: nobody could tell when, or there is nobody to ask.
    """
    if wanted is False:
        return None
    if wanted is not True and not (isinstance(wanted, int | float) and wanted > 0):
        raise ConfigurationError(
            f"hedge={wanted!r}: True, False, or the seconds that the large model is taken to need "
            "before it was seen, such as 2.0."
        )
    if deadline is None:
        raise ConfigurationError(
            f"hedge={wanted} asks the large model early where a deadline would be missed: give "
            "deadline=…, in seconds."
        )
    if not _escalates(tiers, local_only):
        raise ConfigurationError(
            f"hedge={wanted} asks {tiers[-1].name} beside a draft, which there is no way to here. "
            "Leave it out."
        )
    return Hedging(None if wanted is True else wanted)


def choose_reuse(
    given: Wanted | Reuse | str | Path | None, tiers: Sequence[OpenTier], local_only: LocalOnly
) -> Wanted | Reuse | None:
    """Which escalated drafts the large model is shown.

    Raises:
        ConfigurationError: it is none of what may be given, it is evidence about other models, or
            no draft is ever escalated to the large model.
    """
    large = tiers[-1]
    wanted = check_reuse(given, tiers[0].model.name, large.model.name)
    if wanted is not None and not _escalates(tiers, local_only):
        raise ConfigurationError(
            f"reuse={given!r} shows drafts to {large.name}, which there is no way to here. "
            "Leave it out."
        )
    return wanted


def _escalates(tiers: Sequence[OpenTier], local_only: LocalOnly) -> bool:
    """Whether drafts may go to the last tier."""
    stays = read_local_only(local_only, "local_only") is not None
    return len(tiers) > 1 and (tiers[-1].local or not stays)


def task_hash(task: Task, small: OpenTier) -> str:
    """A hash of what decides how the small model answers, but for the question."""
    request = task.request(small, ())
    asked = {
        "tools": [dict(tool) for tool in request.tools],
        "schema": None if task.schema is None else dict(task.schema),
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "options": dict(small.settings.options),
    }
    rarely = {
        "tool_choice": task.tool_choice,
        "stop": list(task.stop) or None,
        "extra": dict(task.extra) or None,
    }
    return digest(asked | {name: value for name, value in rarely.items() if value is not None})


def check_calibration(
    calibration: Calibration,
    tiers: Sequence[OpenTier],
    task: Task,
    small_digest: str | None = None,
    large_digest: str | None = None,
) -> None:
    """Refuse a calibration that was made for something else.

    Raises:
        CalibrationMismatchError: with what differs.
    """
    small = ModelIdentity(name=tiers[0].model.name, digest=small_digest)
    large = ModelIdentity(name=tiers[-1].model.name, digest=large_digest)
    calibration.check(small, large, task_hash(task, tiers[0]))


def calibration_for(
    calibration: Calibration | None, tiers: Sequence[OpenTier], task: Task
) -> Calibration | None:
    """The calibration where it holds for a task, else None."""
    if calibration is None:
        return None
    try:
        check_calibration(calibration, tiers, task)
    except CalibrationMismatchError:
        return None
    return calibration


async def identify(tier: OpenTier) -> ModelIdentity:
    """Name and digest of a tier's model."""
    return ModelIdentity(name=tier.model.name, digest=await tier.model.digest())
