"""Schema 1, made from the tables themselves: `cascade.ledger.database` stamps a new database.

A change of the tables comes with the next script here, whose `down_revision` is "1", and with the
next version of the schema.
"""

revision = "1"
down_revision = None


def upgrade() -> None:
    """Nothing: a database without a version has no tables yet, and is not migrated."""


def downgrade() -> None:
    """Nothing."""
