"""What a configuration would run, for `cascade serve --check`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import text

from cascade.api import Cascade
from cascade.errors import LedgerError
from cascade.ledger.store.engines import make_engine, told_apart
from cascade.ledger.store.opening import database_url
from cascade.service.building import build_service
from cascade.service.reading import Settings, masked
from cascade.service.service import Service
from cascade.state import Usage


def describe(settings: Settings) -> list[str]:
    """What would run, as lines; nothing is started or sent, and no database opened.

    Raises:
        ConfigurationError: it cannot run.
    """
    config = settings.config
    service = build_service(config, settings.path.parent)
    ledger = None if config.ledger is None else masked(config.ledger.url)
    lines = [
        f"listens on {config.listen.host}:{config.listen.port}, "
        + ("asks for keys" if config.auth else "asks for no key"),
        f"ledger: {ledger or 'none'}"
        + (f", texts: {config.ledger.texts}" if config.ledger is not None else ""),
    ]
    for name in config.cascades:
        lines += _cascade(service, name)
    return lines


async def reach_ledger(settings: Settings) -> None:
    """Whether the ledger's database is there; its schema is left as it is.

    Raises:
        LedgerError: it is not, and why.
    """
    ledger = settings.config.ledger
    if ledger is None or ledger.url.startswith("memory:"):
        return
    address = database_url(ledger.url)
    if address.startswith("sqlite"):
        _check_folder(address)
        return
    engine = make_engine(address)
    try:
        with told_apart():
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
    finally:
        await engine.dispose()


def _check_folder(address: str) -> None:
    path = Path(address.partition(":///")[2].partition("?")[0])
    if not path.absolute().parent.is_dir():
        raise LedgerError(f"ledger.url: there is no folder {path.parent}: make it.")


def _cascade(service: Service, name: str) -> Iterator[str]:
    config, cascade = service.config.cascades[name], service.served[name].cascade
    policy = type(cascade.policy).__name__
    calibrated = config.calibrator or "no calibration: confidence is a raw score"
    yield f"{name}: {policy}, {config.mode}, {calibrated}"
    yield f"  {config.concurrency} at once, {config.queue} wait up to {config.queue_timeout_s:g} s"
    for tier in cascade.tiers:
        where = "this machine" if tier.local else "elsewhere"
        yield f"  {tier.name}: {tier.model.name} ({where}), {tier.pricing.source}"
    yield from _remarks(service, name, cascade)


def _remarks(service: Service, name: str, cascade: Cascade) -> Iterator[str]:
    usd = service.config.budgets.unknown_call_usd
    for tier in cascade.tiers:
        if tier.pricing.cost(Usage(input_tokens=1, output_tokens=1), busy_ms=1.0) is None:
            yield (
                f"  remark: what {tier.name} costs is unknown; each of its calls counts ${usd:f} "
                f"against budgets. Set cascades.{name}.tiers[…].price."
            )
    if service.store is None:
        yield "  remark: without a ledger, what it costs and saves is gone with each request."
