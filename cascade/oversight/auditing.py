"""The part of `Cascade` that waits for audits, and takes on those that others left."""

from __future__ import annotations

from datetime import timedelta

from cascade.agents.leftovers import STALE
from cascade.oversight.overseeing import Oversight


class Auditing:
    """What is done after replies, for those who want to know that it is done."""

    _oversight: Oversight

    async def audits_done(self) -> None:
        """Return once all audits and shadow drafts of this process so far are in the ledger."""
        await self._oversight.background.finish()

    async def resume_audits(self, older_than: timedelta = STALE) -> int:
        """Take on audits that were drawn by a process that has died; returns how many.

        A running cascade does so by itself, with its first question and every ten minutes. They
        are there where the ledger keeps texts: `open_store(…, texts="pending")`.

        Args:
            older_than: since they were drawn; `timedelta(0)` where no other process is at work.
        """
        auditor = self._oversight.auditor
        return 0 if auditor is None else await auditor.resume(older_than)
