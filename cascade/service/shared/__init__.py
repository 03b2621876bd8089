"""What several replicas of a service share in PostgreSQL: budgets, leases, calibrations, alarms."""

from cascade.service.shared.budgets import SharedBudgets, SharedReservation
from cascade.service.shared.database import SharedDatabase, is_shared
from cascade.service.shared.replica import Replica
from cascade.service.shared.shared import Shared

__all__ = [
    "Replica",
    "Shared",
    "SharedBudgets",
    "SharedDatabase",
    "SharedReservation",
    "is_shared",
]
