"""Keys and calibrations over several replicas: what one changes, all have."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cascade.confidence.calibration import Calibration
from cascade.errors import ConfigurationError
from cascade.ledger.store import open_store
from cascade.models.base import guard
from cascade.service.building import build_service
from cascade.service.config import ServiceConfig
from cascade.service.keys import KNOWN_FOR_S, Keys
from cascade.service.shared.calibrations import Calibrations, RolloutError
from tests.servers.fake import FakeServer
from tests.service import calibrated
from tests.service.gateway import Gateway, configured, gateway
from tests.service.replicas import replicas, until

ACCEPTS, REJECTS = 0.9, 0.1
TIERS = {"1": "small", "2": "large"}
"""Which tier answers by which version."""


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[calibrated.Upstream]:
    monkeypatch.setattr(guard, "forbidden", False)
    monkeypatch.setenv("UPSTREAM_KEY", "sk-upstream-secret")
    with calibrated.Upstream() as server:
        yield server


def document(tmp_path: Path, confidence: float, small: str = "openai:small") -> str:
    file = tmp_path / "pushed.json"
    calibrated.write(file, confidence, small)
    return Calibration.load(file).model_dump_json()


def shared(upstream: FakeServer, tmp_path: Path, url: str, **changes: Any) -> dict[str, Any]:
    own = tmp_path / "own.json"
    calibrated.write(own, ACCEPTS)
    changes = {"cascade": {"calibrator": str(own)}, **changes}
    return {**configured(upstream, tmp_path, **changes), "ledger": url}


async def answered_by(running: Gateway, secret: str) -> str:
    answer = await running.ask(secret)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["tier"])


async def test_a_key_that_one_replica_revokes_or_rotates_is_refused_by_the_other_at_once(
    upstream: calibrated.Upstream,
    tmp_path: Path,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("KNOWN_FOR_S",):  # only what is heard can be fast enough
        monkeypatch.setattr(f"cascade.service.keys.{name}", 1000.0)
    config = shared(upstream, tmp_path, postgres_url)
    async with gateway(config) as one, gateway(config) as other:
        secret, rotated = await one.key("gone"), await one.key("rotated")
        assert (await other.ask(secret)).status_code == 200
        assert (await other.ask(rotated)).status_code == 200
        await one.in_loop(one.service.keys.revoke("gone"))
        _, new = await one.in_loop(one.service.keys.rotate("rotated"))

        async def refused() -> bool:
            codes = [(await other.ask(each)).status_code for each in (secret, rotated)]
            return codes == [401, 401]

        await until(refused, "refusing")
        assert (await other.ask(new)).status_code == 200
        assert (await one.ask(rotated)).status_code == 401
    assert KNOWN_FOR_S <= 2.0  # where nothing is heard


async def test_a_rotated_key_keeps_what_it_has_spent(
    upstream: calibrated.Upstream, tmp_path: Path, postgres_url: str
) -> None:
    async with gateway(shared(upstream, tmp_path, postgres_url)) as running:
        admin = await running.key("admin", admin=True)
        secret = await running.key("team", day_usd=Decimal(1))
        assert (await running.ask(secret)).status_code == 200
        [before] = (await running.get("/admin/budgets", admin)).json()
        answer = await running.client.post(
            f"/admin/keys/{before['key']}/rotate", headers={"X-API-Key": admin}
        )
        assert answer.status_code == 200
        assert (await running.ask(answer.json()["secret"])).status_code == 200
        [after] = (await running.get("/admin/budgets", admin)).json()
    assert after["key"] == before["key"]
    assert Decimal(after["day_spent_usd"]) == 2 * Decimal(before["day_spent_usd"]) > 0


async def test_without_a_database_of_several_a_key_is_rotated_all_the_same(tmp_path: Path) -> None:
    for url in (None, f"sqlite:///{tmp_path}/ledger.db"):
        keys = Keys(url)
        key, old = await keys.create("team")
        assert await keys.find(old) == key
        changed, new = await keys.rotate("team")
        assert (await keys.find(old), await keys.find(new)) == (None, changed)
        with pytest.raises(ConfigurationError, match="no such key"):
            await keys.rotate("nobody")
        await keys.aclose()


async def test_a_version_is_rolled_out_to_all_replicas_under_load_without_a_mixture(
    upstream: calibrated.Upstream, tmp_path: Path, postgres_url: str
) -> None:
    config = shared(upstream, tmp_path, postgres_url)
    calibrations = Calibrations(postgres_url)
    async with replicas(config, tmp_path) as found:
        _, secret = await found.key()
        over, seen = asyncio.Event(), list[tuple[str, str]]()

        async def load(n: int) -> None:
            while not over.is_set():
                answer = (await found.running[n % 2].ask(secret)).json()
                seen.append((answer["run"], answer["tier"]))

        async def more() -> None:
            so_far = len(seen)
            await until(lambda: asyncio.sleep(0, len(seen) >= so_far + 8), "requests")

        clients = [asyncio.create_task(load(n)) for n in range(4)]
        await more()
        rolled_out = []
        for confidence in (ACCEPTS, REJECTS):
            text = document(tmp_path, confidence)
            rolled_out.append(await calibrations.push("support", text))
            await more()
        [status] = await calibrations.status()
        back = await calibrations.rollback("support")
        await more()
        own = await calibrations.rollback("support", to=0)
        await more()
        over.set()
        await asyncio.gather(*clients)
        versions: dict[str, set[str | None]] = {}

        async def written() -> bool:
            async for stored in found.store.stored():
                versions.setdefault(stored.entry.run_id, set()).add(stored.tags.get("calibration"))
            return all(run in versions for run, _ in seen)

        await until(written, "entries")
    await calibrations.aclose()
    assert [(one.version, len(one.replicas)) for one in rolled_out] == [(1, 2), (2, 2)]
    assert (status.version, status.versions, set(status.replicas.values())) == (2, (1, 2), {True})
    assert (back.version, own.version) == (1, 0)
    for run, tier in seen:
        [version] = versions[run]  # each entry of a request has the same
        assert tier == TIERS.get(version or "1")
    assert {version for each in versions.values() for version in each} == {None, "1", "2"}


async def test_a_version_that_one_replica_cannot_use_changes_nothing_anywhere(
    upstream: calibrated.Upstream, tmp_path: Path, postgres_url: str
) -> None:
    config = shared(upstream, tmp_path, postgres_url)
    other_model = json.loads(json.dumps(config))
    other_model["cascades"]["support"]["tiers"][0]["model"] = "openai:smaller"
    calibrated.write(tmp_path / "smaller.json", ACCEPTS, "openai:smaller")
    other_model["cascades"]["support"]["calibrator"] = str(tmp_path / "smaller.json")
    calibrations = Calibrations(postgres_url)
    async with gateway(config) as one, gateway(other_model) as other:
        secret = await one.key()
        with pytest.raises(RolloutError, match=r"nothing was changed.*openai:smaller"):
            await calibrations.push("support", document(tmp_path, REJECTS))
        assert await answered_by(one, secret) == await answered_by(other, secret) == "small"
        assert await calibrations.status() == []
    await calibrations.aclose()


async def test_a_replica_that_starts_later_uses_what_the_others_use(
    upstream: calibrated.Upstream, tmp_path: Path, postgres_url: str
) -> None:
    config = shared(upstream, tmp_path, postgres_url)
    calibrations = Calibrations(postgres_url)
    await calibrations.push("support", document(tmp_path, REJECTS))  # nobody runs yet
    await calibrations.aclose()
    async with gateway(config) as later:
        secret = await later.key()
        assert await answered_by(later, secret) == "large"
        calibrated.write(tmp_path / "own.json", ACCEPTS)  # its file does not count now
        assert await later.in_loop(later.service.reloads.look()) == []
        assert await answered_by(later, secret) == "large"
    async with open_store(postgres_url) as store:
        found = [stored.tags["calibration"] async for stored in store.stored()]
    assert set(found) == {"1"}


async def test_a_look_that_is_cancelled_while_a_cascade_is_made_is_made_up_for(
    upstream: calibrated.Upstream,
    tmp_path: Path,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calibrations = Calibrations(postgres_url)
    await calibrations.push("support", document(tmp_path, REJECTS))
    await calibrations.aclose()
    config = shared(upstream, tmp_path, postgres_url)
    service = build_service(ServiceConfig.model_validate(config))
    assert service.shared is not None
    assert service.shared.rollouts is not None
    making = asyncio.Event()

    async def hang(*_: object) -> None:
        making.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as slow:
        slow.setattr(service.reloads, "make", hang)
        look = asyncio.create_task(service.shared.rollouts.look())
        await making.wait()
        look.cancel()
        await asyncio.gather(look, return_exceptions=True)
    await service.shared.rollouts.look()
    served = service.served["support"]
    assert served.version_of(served.cascade) == "1"
    await service.aclose()


async def test_what_is_only_prepared_or_not_served_here_says_nothing_of_what_is_in_use(
    upstream: calibrated.Upstream, tmp_path: Path, postgres_url: str
) -> None:
    calibrations = Calibrations(postgres_url)
    text = document(tmp_path, REJECTS)
    await calibrations.push("elsewhere", text)
    await calibrations.push("support", document(tmp_path, REJECTS, "openai:other"))
    config = shared(upstream, tmp_path, postgres_url)
    service = build_service(ServiceConfig.model_validate(config))
    assert service.shared is not None
    assert service.shared.rollouts is not None
    await service.shared.rollouts.look()
    assert set(service.reloads.last) == {"support"}
    assert "openai:other" in service.reloads.problems["support"]
    kept = "INSERT INTO service_calibrations VALUES ('support', 2, :text, '', now())"
    begun = "INSERT INTO service_rollouts (cascade, version, begun_at) VALUES ('support', 2, now())"
    await service.shared.database.ask(kept, text=text)
    await service.shared.database.ask(begun)
    await service.shared.rollouts.look()
    assert "openai:other" in service.reloads.problems["support"]
    await service.shared.database.ask("UPDATE service_rollouts SET switched_at = now()")
    await service.shared.rollouts.look()
    assert service.reloads.problems == {}
    bad = "INSERT INTO service_rollouts (cascade, version, begun_at) VALUES ('support', 1, now())"
    await service.shared.database.ask(bad)
    await service.shared.rollouts.look()  # its problem is for who rolls it out, not yet for others
    assert service.reloads.problems == {}
    await service.shared.database.ask("UPDATE service_rollouts SET switched_at = now()")
    await service.shared.rollouts.look()  # who rolled it out did not wait for this replica
    assert "openai:other" in service.reloads.problems["support"]
    await service.aclose()
    await calibrations.aclose()


async def test_versions_need_a_ledger_in_postgresql_and_must_be_there(postgres_url: str) -> None:
    with pytest.raises(ConfigurationError, match="PostgreSQL"):
        Calibrations("sqlite:///ledger.db")
    calibrations = Calibrations(postgres_url)
    with pytest.raises(ConfigurationError, match="no version was ever rolled out"):
        await calibrations.rollback("support")
    with pytest.raises(ConfigurationError, match="no version 7; there are none"):
        await calibrations.rollback("support", to=7)
    await calibrations.aclose()
