"""The databases of the ledger's tests, for what has to survive in them."""

from tests.ledger.store.conftest import (  # noqa: F401 - fixtures
    postgres_server,
    postgres_url,
    sqlite_url,
    url,
)
