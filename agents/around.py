"""What a node finds around it: tags and thread of its run, and what tracers want to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig

from cascade.errors import InputError
from cascade.ledger import LedgerView
from cascade.ledger.tags import NO_TAGS
from cascade.ledger.view import weakest
from cascade.observing import ending_of

TAGS = "ledger_tags"
"""Key of a run's `config["metadata"]`: tags of its ledger entries."""


def tags_in(config: RunnableConfig | None) -> Mapping[str, str]:
    """The tags of a run's configuration.

    Raises:
        InputError: they are no dictionary of text.
    """
    tags = ((config or {}).get("metadata") or {}).get(TAGS, NO_TAGS)
    if not isinstance(tags, Mapping) or not all(
        isinstance(key, str) and isinstance(value, str) for key, value in tags.items()
    ):
        raise InputError(
            f'config["metadata"]["{TAGS}"] is {tags!r}: give names and values as text, '
            "{'user': '42'}."
        )
    return tags


def thread_in(config: RunnableConfig | None) -> str | None:
    """The thread of a run, where its graph keeps conversations."""
    thread = ((config or {}).get("configurable") or {}).get("thread_id")
    return None if thread is None else str(thread)


def facts(cascade: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """What LangChain's tracing is told about a finished run."""
    run_id, ending = state["run"].id, ending_of(state)
    ledger = LedgerView(entry for entry in state["ledger"] if entry.run_id == run_id)
    cost, saved = ledger.cost_usd, ledger.saved_usd
    return {
        "cascade_name": cascade,
        "cascade_run_id": run_id,
        "cascade_outcome": ending.outcome,
        "cascade_tier": ending.tier,
        "cascade_escalated": ending.escalated,
        "cascade_confidence": ending.confidence,
        "cascade_calibrated": ending.calibrated,
        "cascade_cost_usd": None if cost is None else float(cost),
        "cascade_saved_usd": None if saved is None else float(saved),
        "cascade_basis": weakest((ledger.cost_basis, ledger.saved_basis)),
    }
