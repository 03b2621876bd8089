"""Alembic's environment: brings the database of an open connection up to date.

`cascade.ledger.database` hands over the connection and the name of the version's table.
"""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
