"""Router: names the tier that answers first, before anything is drafted."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from langchain_core.messages import BaseMessage

from cascade.errors import ConfigurationError
from cascade.run import CascadeRuntime, Run, Step
from cascade.state import Decision

Route = Callable[[Sequence[BaseMessage]], "str | Awaitable[str | None] | None"]
"""Takes the conversation and names the tier that answers first; None drafts as usual."""


@dataclass(frozen=True, slots=True)
class Router:
    """Router to the tier that a rule names, else to the smallest.

    Attributes:
        route: the user's rule, or that of a calibration; None for none.
    """

    route: Route | None = None

    async def __call__(self, run: Run, runtime: CascadeRuntime) -> Step:
        """Go to `draft`, or straight to `expert`.

        Raises:
            ConfigurationError: the rule named a tier that does not exist.
        """
        tiers = runtime.kernel.tiers
        note = ""
        if self.route is not None:
            named = self.route(run.messages)
            if inspect.isawaitable(named):
                named = await named
            if named is not None:
                names = [tier.name for tier in tiers]
                if named not in names:
                    raise ConfigurationError(
                        f"the router named the tier {named!r}; there are: {', '.join(names)}"
                    )
                # Middleware may have moved the question up already: a rule never moves it down.
                run.tier = max(run.tier, names.index(named))
                note = f"the router named {named}"
        name = tiers[run.tier].name
        if note and run.kind == "answer":  # without a rule, no step has cost or saved anything
            runtime.kernel.ledger.book(
                run.id, "router", tier=name, note=note, tags=run.settings.get("tags")
            )
        if run.tier < len(tiers) - 1:
            return "draft"
        if run.decision is None:
            run.decision = Decision(action="escalate", reason=note or f"straight to {name}")
        return "expert"
