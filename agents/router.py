"""Router: names the tier that answers first, before anything is drafted."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence

from langchain_core.messages import BaseMessage

from cascade.errors import ConfigurationError
from cascade.run import CascadeRuntime, Run, Step
from cascade.state import Decision

Route = Callable[[Sequence[BaseMessage]], "str | Awaitable[str | None] | None"]
"""Takes the conversation and names the tier that answers first; None drafts as usual."""


class Router:
    """Router to the tier that a rule names, the user's or that of a calibration; else to the
    smallest."""

    async def __call__(self, run: Run, runtime: CascadeRuntime) -> Step:
        """Go to `draft`, or straight to `expert`.

        Raises:
            ConfigurationError: the rule named a tier that does not exist.
        """
        kernel, named = runtime.kernel, None
        names = [tier.name for tier in kernel.tiers]
        if kernel.parts.route is not None:
            named = kernel.parts.route(run.messages)
            named = await named if inspect.isawaitable(named) else named
        note = f"the router named {named}"
        if named is not None:
            if named not in names:
                raise ConfigurationError(
                    f"the router named the tier {named!r}; there are: {', '.join(names)}"
                )
            # Middleware may have moved the question up already: a rule never moves it down.
            run.tier = max(run.tier, names.index(named))
            if run.kind == "answer":  # without a rule, no step has cost or saved anything
                tier, tags = names[run.tier], run.settings.get("tags")
                kernel.ledger.book(run.id, "router", tier=tier, note=note, tags=tags)
        if run.tier < len(names) - 1:
            return "draft"
        if run.decision is None:
            reason = f"straight to {names[run.tier]}" if named is None else note
            run.decision = Decision(action="escalate", reason=reason)
        return "expert"
