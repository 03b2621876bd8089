"""Servers and addresses of databases, as for the tests of the store."""

from tests.ledger.store.conftest import postgres_server, postgres_url, sqlite_url, url

__all__ = ["postgres_server", "postgres_url", "sqlite_url", "url"]
