"""The newest schema as SQLAlchemy sees it, with types that lose nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    MetaData,
    Numeric,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine


class Money(TypeDecorator[Decimal]):
    """Dollars to the last digit: NUMERIC where it is exact, else text."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The type in this database."""
        exact = dialect.name == "postgresql"
        return dialect.type_descriptor(Numeric() if exact else Text())

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        """To the database."""
        return value if value is None or dialect.name == "postgresql" else str(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """From the database."""
        return None if value is None else Decimal(value)


class UtcTime(TypeDecorator[datetime]):
    """A time in UTC to the microsecond; as text it sorts as it should."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The type in this database."""
        native = dialect.name == "postgresql"
        return dialect.type_descriptor(DateTime(timezone=True) if native else Text())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """To the database; a time without a zone is taken for UTC."""
        if value is None:
            return None
        if value.tzinfo is not UTC:
            value = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
        if dialect.name == "postgresql":
            return value
        return value.isoformat(timespec="microseconds")

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """From the database."""
        if value is None:
            return None
        return (datetime.fromisoformat(value) if isinstance(value, str) else value).astimezone(UTC)


class Words(TypeDecorator[str]):
    """Text that every database takes: no NUL and no half of a surrogate pair."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """To the database."""
        if value is None or (value.isascii() and "\0" not in value):
            return value
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


json_type = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
"""Records within a row."""

metadata = MetaData()

entries = Table(
    "ledger_entries",
    metadata,
    Column("id", Words, primary_key=True),
    Column("run_id", Words, nullable=False),
    Column("node", Words, nullable=False),
    Column("tier", Words),
    Column("model", Words),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("reasoning_tokens", BigInteger),
    Column("latency_ms", Double, nullable=False),
    Column("cost_usd", Money),
    Column("saved_usd", Money),
    Column("baseline_usd", Money),
    Column("cost_basis", Text, nullable=False),
    Column("basis", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("note", Words, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("attempt_id", Words),
    Column("tags", json_type),
    Column("cache_write_tokens", BigInteger),
    Column("tool_calls", BigInteger, nullable=False),
    Column("price", Words),
    Column("marginal_usd", Money),
    Column("assumed_usd", Money),
    Column("baseline_low_usd", Money),
    Column("baseline_high_usd", Money),
    Column("prompt_hash", Text),
    Column("answer_hash", Text),
    Column("action", Text),
    Column("confidence", Double),
    Column("calibrated", Boolean, nullable=False),
    Column("signals", json_type),
    Column("audit_rate", Double),
    Column("large_usd", Money),
    Column("loss", Double),
)

attempts = Table(
    "ledger_attempts",
    metadata,
    Column("attempt_id", Words, primary_key=True),
    Column("run_id", Words, nullable=False),
    Column("node", Words, nullable=False),
    Column("tier", Words),
    Column("model", Words),
    Column("begun_at", UtcTime, nullable=False),
    Column("tags", json_type),
)

texts = Table(
    "ledger_texts",
    metadata,
    Column("id", Words, primary_key=True),
    Column("run_id", Words, nullable=False),
    Column("node", Words, nullable=False),
    Column("tier", Words),
    Column("prompt", Words, nullable=False),
    Column("answer", Words),
    Column("at", UtcTime, nullable=False),
    Column("tags", json_type),
)

pending = Table(
    "ledger_pending",
    metadata,
    Column("run_id", Words, primary_key=True),
    Column("payload", Words, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("tags", json_type),
    Column("claimed_by", Text),
    Column("claimed_at", UtcTime),
)

keys = Table(
    "service_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Words, nullable=False),
    Column("digest", Text, nullable=False, unique=True),
    Column("models", json_type),
    Column("per_minute", Double),
    Column("day_usd", Money),
    Column("month_usd", Money),
    Column("exhausted", Text),
    Column("tags", json_type),
    Column("admin", Boolean, nullable=False),
    Column("made_at", UtcTime, nullable=False),
    Column("revoked_at", UtcTime),
)

accounts = Table(
    "service_accounts",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("reserved_usd", Money, nullable=False),
)

spent = Table(
    "service_spent",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("day", Date, primary_key=True),
    Column("cost_usd", Money, nullable=False),
    Column("unknown", BigInteger, nullable=False),
)

replicas = Table(
    "service_replicas",
    metadata,
    Column("id", Text, primary_key=True),
    Column("since", UtcTime, nullable=False),
    Column("until", UtcTime, nullable=False),
)

reservations = Table(
    "service_reservations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("replica_id", Text, nullable=False),
    Column("per_run_usd", Money, nullable=False),
    Column("runs", BigInteger, nullable=False),
    Column("made_at", UtcTime, nullable=False),
    Column("lost_usd", Money),
)

calibrations = Table(
    "service_calibrations",
    metadata,
    Column("cascade", Text, primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("document", Text, nullable=False),
    Column("note", Words, nullable=False),
    Column("made_at", UtcTime, nullable=False),
)

rollouts = Table(
    "service_rollouts",
    metadata,
    Column("number", BigInteger, primary_key=True),
    Column("cascade", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("begun_at", UtcTime, nullable=False),
    Column("switched_at", UtcTime),
    Column("given_up_at", UtcTime),
)

prepared = Table(
    "service_prepared",
    metadata,
    Column("replica_id", Text, primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("problem", Words),
    Column("prepared_at", UtcTime, nullable=False),
    Column("switched_at", UtcTime),
)

evidence = Table(
    "service_evidence",
    metadata,
    Column("place", Words, primary_key=True),
    Column("part", Text, primary_key=True),
    Column("since", UtcTime, nullable=False),
    Column("max_harm", Double, nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("log_e", Double, nullable=False),
    Column("at", UtcTime, nullable=False),
)
