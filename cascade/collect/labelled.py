"""What a calibration is fitted to: labelled drafts, and what they were made with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from cascade.agents.remembering import memory_of
from cascade.api import Cascade
from cascade.collect.examples import Example
from cascade.collect.marking import MADE_WITH
from cascade.confidence.bindings import LabelledDraft, Labels, MadeFor, system_hash
from cascade.confidence.signals import BUILT_IN, wordings
from cascade.errors import ConfigurationError
from cascade.evaluation.transcripts import read_transcripts, rows_of_pair
from cascade.setup import identify, task_hash


def labelled_drafts(path: str | Path, cascade: Cascade) -> list[LabelledDraft]:
    """The drafts of a file of transcripts, with their features and who was right.

    Raises:
        ConfigurationError: no row has both models of the cascade.
    """
    small, large = cascade.tiers[0].model.name, cascade.tiers[-1].model.name
    pairs = (
        (row.models[small], row.models[large])
        for row in rows_of_pair(read_transcripts(path), small, large)
    )
    return [LabelledDraft(one.features, one.correct, other.correct) for one, other in pairs]


async def made_for(
    cascade: Cascade,
    examples: Sequence[Example],
    labels: Labels,
    *,
    recorded: str | Path | None = None,
) -> MadeFor:
    """What a calibration of this cascade on these examples is bound to.

    Args:
        cascade: that answered.
        examples: that it answered; empty for recorded ones.
        labels: who said which answers are right.
        recorded: transcripts instead of examples.

    Raises:
        ConfigurationError: the transcripts were made with other settings than the cascade's.
    """
    systems: set[str | None] = {system_hash(example.messages) for example in examples}
    if recorded is not None:
        systems = _recorded_systems(recorded, task_hash(cascade.task, cascade.tiers[0]))
    return MadeFor(
        small=await identify(cascade.tiers[0]),
        large=await identify(cascade.tiers[-1]),
        task_hash=task_hash(cascade.task, cascade.tiers[0]),
        system_hash=systems.pop() if len(systems) == 1 else None,
        labels=labels,
        memory=None if recorded is not None else memory_of(cascade.options),
    )


def _recorded_systems(path: str | Path, task: str) -> set[str | None]:
    """Hashes of the system messages, None where a transcript does not say."""
    systems = set()
    for record in read_transcripts(path, models=()):
        made_with = (record.model_extra or {}).get(MADE_WITH, {})
        if made_with.get("small", task) != task:
            raise ConfigurationError(
                f"{path}: example {record.id!r} was answered with other settings of the small "
                "model: give the same --max-tokens and --temperature as when it was recorded."
            )
        _check_wordings(path, record.id, made_with.get("signals", ()))
        systems.add(made_with.get("system"))
    return systems


def _check_wordings(path: str | Path, example: str, signals: Sequence[str]) -> None:
    """Refuse answers to a check that is put in other words by now."""
    for name, wording in wordings(BUILT_IN).items():
        other = re.compile(rf"{name}(?! {wording}$)(?: [0-9a-f]{{12}})?")
        if any(other.fullmatch(taken) for taken in signals):
            raise ConfigurationError(
                f"{path}: the check {name!r} of example {example!r} was asked in other words than "
                "this version asks it: record the examples again (another --work file)."
            )
