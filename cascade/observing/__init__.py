"""Who looks on while a cascade runs: traces, metrics, logs. When nobody looks on, it costs nothing.

A run is seen from its first node to its last, also where `cascade.graph` is a part of a larger
graph. A run that waits for a person and is resumed later is seen as two, with the same id.
"""

from cascade.observing.records import (
    CACHED,
    Ending,
    ObservedCall,
    ObservedNode,
    ObservedRun,
    Outcome,
    TierEvent,
    TierEventKind,
    after,
    ending_of,
)
from cascade.observing.telling import Aside, Observer, Observers

__all__ = [
    "CACHED",
    "Aside",
    "Ending",
    "ObservedCall",
    "ObservedNode",
    "ObservedRun",
    "Observer",
    "Observers",
    "Outcome",
    "TierEvent",
    "TierEventKind",
    "after",
    "ending_of",
]
