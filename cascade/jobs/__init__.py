"""Jobs: the rows of a file, answered by a cascade, with a journal that outlives the process."""

from cascade.jobs.engine import Done, made_with, run_job
from cascade.jobs.files import Row, check_output, check_rows, read_rows, write_output
from cascade.jobs.journal import Journal, RowRecord

__all__ = [
    "Done",
    "Journal",
    "Row",
    "RowRecord",
    "check_output",
    "check_rows",
    "made_with",
    "read_rows",
    "run_job",
    "write_output",
]
