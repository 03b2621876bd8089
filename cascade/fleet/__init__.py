"""A fleet of gateways on paper: what a rate needs, costs and saves, by formulas and simulation.

`needs(Workload(…), Capacity(…), Costs(…))` works it out; `cascade.fleet.simulation` follows each
request, and needs the extra `fleet`.
"""

from cascade.fleet.inputs import Capacity, Costs, Workload
from cascade.fleet.limits import Limit
from cascade.fleet.measured import Traffic, traffic_of
from cascade.fleet.needs import Bill, Needs, needs
from cascade.fleet.scenario import Bursts, Scenario, scenario_of
from cascade.fleet.text import laws_text, needs_text, simulated_text, verdict
from cascade.fleet.times import LognormalTime, MeasuredTimes, ServiceTime

__all__ = [
    "Bill",
    "Bursts",
    "Capacity",
    "Costs",
    "Limit",
    "LognormalTime",
    "MeasuredTimes",
    "Needs",
    "Scenario",
    "ServiceTime",
    "Traffic",
    "Workload",
    "laws_text",
    "needs",
    "needs_text",
    "scenario_of",
    "simulated_text",
    "traffic_of",
    "verdict",
]
