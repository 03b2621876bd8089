"""Jobs: the rows of a file, answered by a cascade, with a journal that outlives the process."""

from __future__ import annotations

from cascade.jobs.engine import Done, made_with, run_job
from cascade.jobs.journal import Journal, Record
from cascade.jobs.output import check_columns, write_output
from cascade.jobs.rows import Row, count_rows, first_row, read_rows

__all__ = [
    "Done",
    "Journal",
    "Record",
    "Row",
    "check_columns",
    "count_rows",
    "first_row",
    "made_with",
    "read_rows",
    "run_job",
    "write_output",
]
