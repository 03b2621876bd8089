"""Jobs: the rows of a file, answered by a cascade, with a journal that outlives the process."""

from cascade.jobs.engine import Done, made_with, run_job
from cascade.jobs.journal import Journal, Record
from cascade.jobs.output import check_output, write_output
from cascade.jobs.rows import Row, check_rows, read_rows

__all__ = [
    "Done",
    "Journal",
    "Record",
    "Row",
    "check_output",
    "check_rows",
    "made_with",
    "read_rows",
    "run_job",
    "write_output",
]
