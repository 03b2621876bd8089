"""Shadow: the large model answers, and the small one drafts beside it, after the reply."""

from __future__ import annotations

from typing import Any

from cascade._numbers import to_number
from cascade.middleware.background import lot
from cascade.middleware.base import Slot, go_to
from cascade.middleware.comparing import AfterReply, Loss
from cascade.run import Answer, CascadeRuntime, Run
from cascade.tiers import ModelLike


class Shadow(AfterReply):
    """Start in the shadow: the large model answers, drafts show what they would save.

    Each draft is compared with the large answer (`loss` of its entry). With a `live_share` it is a
    canary: that share of conversations, by a hash of the thread's id or else of the run's, goes the
    usual way; when the share grows, those that were live stay so.

    Args:
        live_share: may be changed while the cascade runs.
        compare, judge: how a draft is compared, see `cascade.middleware.comparing.AfterReply`.
    """

    slot = Slot.TIME
    kind = "shadow"

    def __init__(
        self,
        live_share: float = 0.0,
        *,
        compare: str | Loss = "auto",
        judge: ModelLike | None = None,
        name: str = "shadow",
    ) -> None:
        super().__init__(name, compare, judge)
        self.live_share = live_share

    @property
    def live_share(self) -> float:
        """Share of conversations in which the small model answers first."""
        return self._live_share

    @live_share.setter
    def live_share(self, share: float) -> None:
        self._live_share = to_number("Shadow.live_share", share, least=0, most=1)

    async def before_run(self, run: Run, runtime: CascadeRuntime) -> Answer | None:
        """Hand a question that is not live to the large model."""
        configurable = (runtime.config or {}).get("configurable") or {}
        live = lot(str(configurable.get("thread_id") or run.id), "canary") < self.live_share
        if run.kind == "answer" and not live:
            last, reason = len(runtime.kernel.tiers) - 1, "shadow: the large model answers"
            run.notes[self.name] = go_to(run, runtime.kernel.tiers, last, reason)
        return None

    async def after_run(self, run: Run, answer: Answer, runtime: CascadeRuntime) -> None:
        """Draft after the reply."""
        kernel, large = runtime.kernel, answer.completion
        shadowed = run.kind == "answer" and run.notes.get(self.name)
        if shadowed and answer.source == kernel.tiers[-1].name and large and not large.cached:
            begin: Any = {"tier": 0, "draft": None, "assessment": None, "decision": None}
            self.answer_again(run, kernel, lambda large: {}, **begin)
