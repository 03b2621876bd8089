"""Drift over several replicas: alarms and resets of one are those of all, evidence adds up."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cascade import Cascade
from cascade.ledger.store import open_store
from cascade.oversight import Drift
from cascade.oversight.drift import DriftWatch
from cascade.service.config import CascadeConfig
from cascade.service.serving import Gate, Served
from cascade.service.shared import Replica, SharedDatabase
from cascade.service.shared.drift import SharedDrift
from cascade.testing import ScriptedModel, reply
from tests.servers.fake import FakeServer
from tests.service.gateway import configured, gateway
from tests.service.replicas import until

HARM = 0.05


@dataclass
class One:
    """A replica with one cascade, without a gateway."""

    cascade: Cascade
    shared: SharedDrift

    @property
    def watch(self) -> DriftWatch:
        assert self.cascade.drift is not None
        return self.cascade.drift

    async def look(self) -> None:
        await self.cascade.audits_done()  # events are written after the reply
        await self.shared.look()
        await self.cascade.audits_done()  # what it raised itself, too
        await self.cascade.options["ledger"].flush()

    def sees(self, harms: int, of: int) -> None:
        """Audits of accepted drafts, each drawn for sure."""
        assert self.watch._harm is not None
        for number in range(of):
            run = f"{id(self)}-{self.watch._harm.process.n}"
            self.watch._react(self.watch._harm.decided(run, "accept", 1.0))
            self.watch.audited(run, 1.0 if number < harms else 0.0)


@asynccontextmanager
async def several(url: str, n: int = 2) -> AsyncGenerator[list[One]]:
    database, made, stores = SharedDatabase(url), [], []
    for _ in range(n):
        stores.append(open_store(url))
        cascade = Cascade(
            ScriptedModel([reply("a draft", probability=0.9)]),
            ScriptedModel("the large model's answer"),
            ledger=stores[-1],
            name="support",
            drift=Drift(max_harm=HARM, harm="tighten"),
        )
        assert cascade.drift is not None
        cascade.drift.share()
        tier = {"tiers": [{"model": "openai:small"}]}
        served = Served(
            "support", CascadeConfig.model_validate(tier), cascade, Gate("support", 1, 1, 1.0)
        )
        shared = SharedDrift(database, Replica(database, 30.0), {"support": served})
        made.append(One(cascade, shared))
    try:
        yield made
    finally:
        for one, store in zip(made, stores, strict=True):
            await one.cascade.aclose()
            await store.aclose()
        await database.aclose()


async def test_an_alarm_of_one_is_one_of_all_and_so_is_a_reset(postgres_url: str) -> None:
    async with several(postgres_url) as (one, other):
        one.watch.alarm("escalations", "escalation rate", "it rose")
        await one.look()
        await other.look()
        assert other.watch.caution == one.watch.caution == "audit"
        other.watch.alarm("escalations", "escalation rate", "it rose")  # it is known already
        assert other.watch.alarms == []
        other.watch.reset()
        await other.look()
        await one.look()
        await other.look()
        assert (one.watch.caution, other.watch.caution) == ("normal", "normal")
        one.watch.alarm("escalations", "escalation rate", "it rose again")
        await one.look()
        await other.look()
        assert other.watch.caution == "audit"


async def test_harm_that_no_replica_could_show_alone_is_shown_by_all_together(
    postgres_url: str,
) -> None:
    bound = -math.log(Drift().delta)
    async with several(postgres_url, 3) as ones:
        for one in ones:
            one.sees(2, of=4)
            await one.look()
        alone = [one.watch.evidence for one in ones]
        assert all(evidence is not None and 0 < evidence.log_e < bound for evidence in alone)
        for one in ones:
            await one.look()
        assert [alarm.kind for one in ones for alarm in one.watch.alarms] == ["harm"]
        assert {one.watch.caution for one in ones} == {"tighten"}
        ones[1].watch.reset()
        for _ in range(2):  # the evidence of before is over too
            for one in ones:
                await one.look()
        assert {one.watch.caution for one in ones} == {"normal"}


async def test_what_a_replica_saw_stays_when_it_is_gone_and_is_not_counted_twice(
    postgres_url: str,
) -> None:
    async with several(postgres_url) as (one, other):
        one.sees(1, of=30)
        other.sees(1, of=30)
        for _ in range(2):
            await one.look()
            await other.look()
        one.watch.close()  # as it ends: its state is in the ledger too
        await one.look()
    async with several(postgres_url, 1) as [later]:
        await later.watch.ready()
        later.sees(0, of=1)
        await later.look()
        [row] = await later.shared._database.ask(
            "SELECT sum(n) AS n, count(*) AS parts FROM service_evidence"
        )
    assert (row["n"], row["parts"]) == (61, 3)


async def test_replicas_of_a_service_hear_of_an_alarm(
    upstream: FakeServer, tmp_path: Path, postgres_url: str
) -> None:
    config = {
        **configured(upstream, tmp_path, cascade={"drift": "audit"}),
        "ledger": postgres_url,
    }
    async with gateway(config) as one, gateway(config) as other:
        watches = [each.service.served["support"].cascade.drift for each in (one, other)]
        assert watches[0] is not None
        assert watches[1] is not None
        watches[0].alarm("signals", "confidence", "it moved")

        async def heard() -> bool:
            return watches[1] is not None and watches[1].caution == "audit"

        await until(heard, "hearing")
