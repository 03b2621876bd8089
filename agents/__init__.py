"""The agents of a cascade: one for each node of its graph.

An agent is a small class whose instances are called with a `Run` and a `CascadeRuntime`, change the
run, and return the step that follows. It reads nothing ambient, so the loop and LangGraph drive the
same agents.

    router ─┬────────────→ drafter → self_checker → verifier ─┬→ end               (accept, abstain)
            │                 ↑                               ├→ drafter           (escalate)
            └→ expert ←───────┼───────────────────────────────┼→ expert → end      (last tier)
                              └───────────────────────────────┼→ self_checker      (one more signal)
                                                              └→ person            (ask)
"""

from __future__ import annotations

from cascade.agents.auditor import Auditor as Auditor
from cascade.agents.drafter import Drafter as Drafter
from cascade.agents.expert import Expert as Expert
from cascade.agents.person import Person as Person
from cascade.agents.router import Route as Route
from cascade.agents.router import Router as Router
from cascade.agents.self_checker import SelfChecker as SelfChecker
from cascade.agents.verifier import Verdict as Verdict
from cascade.agents.verifier import Verifier as Verifier
