"""From a ledger to what a cascade saved, how good its answers were, and how sure that is.

report = await make_report(open_store("sqlite:///ledger.db"))
print(report.text())

It needs the extra `calibrate`.
"""

from importlib.util import find_spec

from cascade.errors import MissingDependencyError

if any(find_spec(name) is None for name in ("numpy", "scipy")):
    raise MissingDependencyError(
        "a report needs numpy and scipy: pip install 'agent-cascade[calibrate]'."
    )

from cascade.report.making import TABLES, Report, make_report
from cascade.report.records import (
    Day,
    Event,
    Line,
    Lost,
    Needed,
    PriceUsed,
    Quality,
    Rate,
    Reliability,
    Said,
    Table,
    Unknown,
)

__all__ = [
    "TABLES",
    "Day",
    "Event",
    "Line",
    "Lost",
    "Needed",
    "PriceUsed",
    "Quality",
    "Rate",
    "Reliability",
    "Report",
    "Said",
    "Table",
    "Unknown",
    "make_report",
]
