"""The agents of the cascade, one file each; each is a node of the graph.

They stand at the top of the repository because they are what people come to read and change;
they are imported as `cascade.agents`.
"""

from cascade.agents.auditor import Auditor
from cascade.agents.base import AgentRuntime, Caller, Task
from cascade.agents.drafter import Drafter
from cascade.agents.expert import Expert
from cascade.agents.person import Person
from cascade.agents.router import Route, Router
from cascade.agents.self_checker import SelfChecker
from cascade.agents.verifier import Judge, Verdict, Verifier

__all__ = [
    "AgentRuntime",
    "Auditor",
    "Caller",
    "Drafter",
    "Expert",
    "Judge",
    "Person",
    "Route",
    "Router",
    "SelfChecker",
    "Task",
    "Verdict",
    "Verifier",
]
