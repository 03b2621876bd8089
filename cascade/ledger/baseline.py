"""What the large model would have cost for a drafted question, learned from audits.

`predict` needs no numpy, so that whoever answers requests can call it.
"""

from __future__ import annotations

import math
from decimal import Decimal

from cascade.errors import ConfigurationError
from cascade.ledger.prices import Pricing
from cascade.state import Basis, Record, Usage

LEAST_AUDITS = 39
"""Fewer calibration audits give no two-sided 95 % interval per request: 2/(n + 1) > 0.05."""

WORDY = 8.0
"""Without audits the large model is taken to write at most so many times the draft's tokens."""


class Baseline(Record):
    """Dollars of the large model for one question, with the range of this one request."""

    usd: Decimal
    low_usd: Decimal
    high_usd: Decimal
    output_tokens: int
    basis: Basis = "estimated"
    note: str = ""


class BaselineModel(Record):
    """log(output of the large model) = a + b·log(draft) + c·log(prompt), in tokens.

    Attributes:
        coefficients: (a, b, c).
        smear: mean of exp(residual): what turns the mean log into a mean (Duan 1983).
        ratios: 2.5 % and 97.5 % conformal factors on the predicted length; None without enough
            audits.
        audits, escalated: rows that it was fitted on.
    """

    coefficients: tuple[float, float, float]
    smear: float
    ratios: tuple[float, float] | None
    audits: int
    escalated: int

    def tokens(self, prompt_tokens: int, draft_tokens: int) -> float:
        """Expected output tokens of the large model."""
        a, b, c = self.coefficients
        logs = b * math.log(max(1, draft_tokens)) + c * math.log(max(1, prompt_tokens))
        return math.exp(min(20.0, a + logs)) * self.smear


AS_DRAFT = BaselineModel(
    coefficients=(0.0, 1.0, 0.0), smear=1.0, ratios=None, audits=0, escalated=0
)
"""Before anything is known: as many tokens as the draft has, which peers take for a fact."""


def predict(
    usage: Usage,
    pricing: Pricing,
    model: BaselineModel = AS_DRAFT,
    *,
    cap: int | None = None,
    cached_tokens: int = 0,
    written_tokens: int = 0,
    tool_calls: int = 0,
) -> Baseline | None:
    """What the large model would have cost for a drafted question.

    None where the draft's usage or the price is unknown; unknown is not zero.

    Args:
        usage: of the draft.
        pricing: of the large model.
        model: fitted by `cascade.ledger.lengths.fit_baseline`.
        cap: most output tokens that the large model may write.
        cached_tokens: of the prompt, that the large model would have found in its cache.
        written_tokens: of the prompt, that it would have written to its cache.
        tool_calls: in the draft; the large model is taken to make as many.
    """
    expected = _expected(usage, model, cap)
    if expected is None or usage.input_tokens is None:
        return None
    prompt, most = usage.input_tokens, math.inf if cap is None else cap
    low, high = (0.0, min(most, WORDY * max(1.0, expected)))
    note = "estimated, no audits yet" if not model.audits else "too few audits for a range"
    if model.ratios is not None:
        low, high, note = expected * model.ratios[0], min(most, expected * model.ratios[1]), ""
    # exp(log(100)) is a little more than 100
    lengths = (round(expected), math.floor(low + 1e-9), math.ceil(high - 1e-9))
    used = [_used(prompt, cached_tokens, written_tokens, n) for n in lengths]
    costs = [pricing.cost(one, tool_calls=tool_calls) for one in used]
    known = [cost for cost in costs if cost is not None]
    if len(known) < len(costs):
        return None
    usd, low_usd, high_usd = known
    return Baseline(
        usd=usd,
        low_usd=min(usd, low_usd),
        high_usd=max(usd, high_usd),
        output_tokens=lengths[0],
        note=note,
    )


def predict_usd(
    usage: Usage,
    pricing: Pricing,
    model: BaselineModel = AS_DRAFT,
    *,
    cap: int | None = None,
    cached_tokens: int = 0,
    written_tokens: int = 0,
    tool_calls: int = 0,
) -> Decimal | None:
    """`predict(…).usd`, for who needs no range: a third of the work."""
    expected = _expected(usage, model, cap)
    if expected is None:
        return None
    one = _used(usage.input_tokens, cached_tokens, written_tokens, round(expected))
    return pricing.cost(one, tool_calls=tool_calls)


def _used(prompt: int | None, cached: int, written: int, answer: int) -> Usage:
    """What the large model would have used, with an answer of so many tokens."""
    return Usage(
        input_tokens=prompt,
        cached_tokens=cached,
        cache_write_tokens=written,
        output_tokens=answer,
    )


def _expected(usage: Usage, model: BaselineModel, cap: int | None) -> float | None:
    """Output tokens of the large model; None where the draft's usage is unknown."""
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    tokens = model.tokens(usage.input_tokens, usage.output_tokens)
    return tokens if cap is None else min(cap, tokens)


def check_lengths(*lengths: int) -> None:
    """All columns must have the same length.

    Raises:
        ConfigurationError: they have not.
    """
    if len(set(lengths)) > 1:
        raise ConfigurationError(f"columns of {lengths} rows: give every row every column")
