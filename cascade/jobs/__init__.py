"""Files of questions: answered within a budget, gone on with after an interrupt, in order."""

from cascade.jobs.journal import Journal, Record, Status
from cascade.jobs.output import write_output
from cascade.jobs.ray_engine import run_job_on_ray
from cascade.jobs.rows import Row, count_rows, read_rows
from cascade.jobs.running import Done, made_with, run_job

__all__ = [
    "Done",
    "Journal",
    "Record",
    "Row",
    "Status",
    "count_rows",
    "made_with",
    "read_rows",
    "run_job",
    "run_job_on_ray",
    "write_output",
]
