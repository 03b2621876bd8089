"""The tables of lessons, and the numbered steps that make them.

They are a schema of their own: a program of an older version, which knows no lessons, goes on with
the ledger in the same database.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Double, MetaData, Table, Text

from cascade.ledger.store.migrations import Migration, Schema
from cascade.ledger.store.tables import UtcTime, Words, json_type

metadata = MetaData()

lessons = Table(
    "teaching_lessons",
    metadata,
    Column("id", Words, primary_key=True),
    Column("run_id", Words, nullable=False, unique=True),
    Column("at", UtcTime, nullable=False),
    Column("origin", Text, nullable=False),
    Column("cascade", Words, nullable=False),
    Column("task", Words, nullable=False),
    Column("tenant", Words),
    Column("user_name", Words),
    Column("messages", Words, nullable=False),
    Column("draft", Words),
    Column("draft_model", Words),
    Column("confidence", Double),
    Column("calibrated", Boolean, nullable=False),
    Column("answer", Words, nullable=False),
    Column("tool_calls", Words, nullable=False),
    Column("answer_model", Words, nullable=False),
    Column("answer_tier", Words, nullable=False),
    Column("loss", Double),
    Column("terms", Words, nullable=False),
    Column("tags", json_type),
    Column("digest", Text, nullable=False),
)

verdicts = Table(
    "teaching_verdicts",
    metadata,
    Column("run_id", Words, primary_key=True),
    Column("key", Words, primary_key=True),
    Column("by", Words, primary_key=True),
    Column("at", UtcTime, nullable=False),
    Column("tenant", Words),
    Column("user_name", Words),
    Column("said", Words, nullable=False),
    Column("tags", json_type),
)

deleted = Table(
    "teaching_deleted",
    metadata,
    Column("number", BigInteger, primary_key=True),
    Column("run_id", Words, nullable=False),
    Column("at", UtcTime, nullable=False),
)

exports = Table(
    "teaching_exports",
    metadata,
    Column("id", Words, primary_key=True),
    Column("path", Words, nullable=False),
    Column("purpose", Words, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("n", BigInteger, nullable=False),
)

exported = Table(
    "teaching_exported",
    metadata,
    Column("export_id", Words, primary_key=True),
    Column("run_id", Words, primary_key=True),
)

terms = Table(
    "teaching_terms",
    metadata,
    Column("model", Words, primary_key=True),
    Column("stated", Words, nullable=False),
)

groups = Table(
    "teaching_groups",
    metadata,
    Column("settings", Words, primary_key=True),
    Column("leader", Words, primary_key=True),
    Column("at", UtcTime, nullable=False),
    Column("standing", Text, nullable=False),
    Column("evidence", Words, nullable=False),
)

state = Table(
    "teaching_state",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

TEACHING = Schema(
    "teaching_schema",
    "the lessons",
    (
        Migration(
            "lessons",
            (
                """CREATE TABLE teaching_lessons (
                    id TEXT NOT NULL PRIMARY KEY,
                    run_id TEXT NOT NULL UNIQUE,
                    at {time} NOT NULL,
                    origin TEXT NOT NULL,
                    cascade TEXT NOT NULL,
                    task TEXT NOT NULL,
                    tenant TEXT,
                    user_name TEXT,
                    messages TEXT NOT NULL,
                    draft TEXT,
                    draft_model TEXT,
                    confidence DOUBLE PRECISION,
                    calibrated BOOLEAN NOT NULL,
                    answer TEXT NOT NULL,
                    tool_calls TEXT NOT NULL,
                    answer_model TEXT NOT NULL,
                    answer_tier TEXT NOT NULL,
                    loss DOUBLE PRECISION,
                    terms TEXT NOT NULL,
                    tags {json},
                    digest TEXT NOT NULL
                )""",
                "CREATE INDEX teaching_lessons_at ON teaching_lessons (at, id)",
                "CREATE INDEX teaching_lessons_user ON teaching_lessons (user_name)",
                """CREATE TABLE teaching_verdicts (
                    run_id TEXT NOT NULL,
                    key TEXT NOT NULL,
                    by TEXT NOT NULL,
                    at {time} NOT NULL,
                    tenant TEXT,
                    user_name TEXT,
                    said TEXT NOT NULL,
                    tags {json},
                    PRIMARY KEY (run_id, key, by)
                )""",
                "CREATE INDEX teaching_verdicts_user ON teaching_verdicts (user_name)",
                """CREATE TABLE teaching_deleted (
                    number {serial},
                    run_id TEXT NOT NULL,
                    at {time} NOT NULL
                )""",
                "CREATE INDEX teaching_deleted_run ON teaching_deleted (run_id)",
                """CREATE TABLE teaching_exports (
                    id TEXT NOT NULL PRIMARY KEY,
                    path TEXT NOT NULL,
                    purpose TEXT NOT NULL,
                    at {time} NOT NULL,
                    n {count} NOT NULL
                )""",
                """CREATE TABLE teaching_exported (
                    export_id TEXT NOT NULL,
                    run_id TEXT NOT NULL,
                    PRIMARY KEY (export_id, run_id)
                )""",
                "CREATE INDEX teaching_exported_run ON teaching_exported (run_id)",
                """CREATE TABLE teaching_terms (
                    model TEXT NOT NULL PRIMARY KEY,
                    stated TEXT NOT NULL
                )""",
                """CREATE TABLE teaching_state (
                    name TEXT NOT NULL PRIMARY KEY,
                    value {count} NOT NULL
                )""",
                "INSERT INTO teaching_state VALUES ('changes', 0)",
            ),
        ),
        Migration(
            "groups",
            (
                """CREATE TABLE teaching_groups (
                    settings TEXT NOT NULL,
                    leader TEXT NOT NULL,
                    at {time} NOT NULL,
                    standing TEXT NOT NULL,
                    evidence TEXT NOT NULL,
                    PRIMARY KEY (settings, leader)
                )""",
            ),
        ),
    ),
)
"""The steps that make these tables; `cascade.ledger.store.migrations` applies them."""

TEXTS = (lessons, verdicts)
"""Tables with what people wrote."""
