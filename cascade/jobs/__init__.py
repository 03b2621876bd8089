"""Jobs: the rows of a file, answered by a cascade, with a journal that outlives the process."""

from cascade.jobs.engine import Done as Done
from cascade.jobs.engine import made_with as made_with
from cascade.jobs.engine import run_job as run_job
from cascade.jobs.files import Journal as Journal
from cascade.jobs.files import Row as Row
from cascade.jobs.files import RowRecord as RowRecord
from cascade.jobs.files import check_output as check_output
from cascade.jobs.files import check_rows as check_rows
from cascade.jobs.files import read_rows as read_rows
from cascade.jobs.files import write_output as write_output
