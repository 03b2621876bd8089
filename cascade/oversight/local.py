"""Which options of `Cascade` go together with questions that have to stay on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cascade.agents.border import read_local_only
from cascade.errors import ConfigurationError
from cascade.oversight.audits import to_audits
from cascade.policies import Policy, promises
from cascade.tiers import OpenTier, keep_local, open_tier


def check_local_only(options: Mapping[str, Any], tiers: Sequence[OpenTier], policy: Policy) -> None:
    """Refuse what would have to leave this machine, and what promises what cannot be kept here.

    Args:
        options: of `Cascade`.
        tiers: from small to large.
        policy: that the options mean.

    Raises:
        ConfigurationError: with what does not go together, and the way out.
    """
    private = options["private"]
    if private is not None:
        if not callable(private):
            raise ConfigurationError(
                f"private={private!r}: give a function from messages to True or False, such as "
                "cascade.privacy.looks_personal; for all questions, local_only=True."
            )
        keep_local(tiers)
    stays = read_local_only(options["local_only"], "local_only")
    if stays is None:
        return
    _check_judge(options["audit_rate"])
    abort = options.get("abort")
    if abort:
        raise ConfigurationError(
            f"abort={abort} stops drafts so that another tier may answer sooner; with "
            "local_only none is stopped. Give one of them."
        )
    if tiers[-1].local:
        return
    where = f"{tiers[-1].name} ({tiers[-1].model.name}), which is not on this machine"
    if stays == "answer" and promises(policy):
        raise ConfigurationError(
            "a certificate (max_harm) promises that what it does not cover is escalated; "
            f"local_only={options['local_only']!r} answers it with the draft. Give "
            "local_only='abstain'."
        )
    if to_audits(options["audit_rate"]) is not None:
        raise ConfigurationError(
            f"audit_rate={options['audit_rate']!r} asks {where}; with local_only nothing may leave "
            "it. Leave the audits out, or give a large model that is here."
        )


def _check_judge(audit_rate: Any) -> None:
    audits = to_audits(audit_rate)
    judge = None if audits is None or audits.judge is None else open_tier(audits.judge, "judge")
    if judge is not None and not judge.local:
        raise ConfigurationError(
            f"Audits(judge=…) asks {judge.model.name}, which is not on this machine; with "
            "local_only nothing may leave it. Give a judge that is here."
        )
