from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from cascade.errors import ConfigurationError
from cascade.evaluation.audit.fitting import Lengths, fit_baseline
from cascade.ledger.baseline import AS_DRAFT, BaselineModel, predict
from cascade.ledger.prices import Price
from cascade.state import Usage

PRICE = Price(input=1, output=10)
DRAFT = Usage(input_tokens=100, output_tokens=50)
NONE = Lengths(*[np.zeros(0)] * 4)


def lengths(n: int, seed: int, factor: float = 2.0) -> Lengths:
    rng = np.random.default_rng(seed)
    prompt, draft = rng.integers(20, 500, n) * 1.0, rng.integers(10, 300, n) * 1.0
    large = np.round(factor * draft**0.8 * rng.lognormal(0, 0.4, n)) + 1
    return Lengths(prompt, draft, large, np.ones(n))


def test_before_any_audit_it_is_the_draft_with_a_wide_range() -> None:
    found = predict(DRAFT, PRICE)
    assert found is not None
    assert found.usd == Decimal("0.0006")
    assert (found.low_usd, found.high_usd) == (Decimal("0.0001"), Decimal("0.0041"))
    assert found.basis == "estimated"
    assert found.note == "estimated, no audits yet"


def test_the_cap_is_the_most() -> None:
    found = predict(DRAFT, PRICE, cap=40)
    assert found is not None
    assert (found.output_tokens, found.high_usd) == (40, Decimal("0.0005"))


@pytest.mark.parametrize("usage", [Usage(), Usage(input_tokens=1), Usage(output_tokens=1)])
def test_unknown_usage_is_not_zero(usage: Usage) -> None:
    assert predict(usage, PRICE) is None


def test_an_unknown_price_is_not_zero() -> None:
    assert predict(DRAFT, Price(per_hour=1)) is None


def test_the_length_is_learned() -> None:
    model = fit_baseline(lengths(600, 1))
    expected = 2.0 * 100**0.8 * np.exp(0.08)
    assert model.tokens(100, 100) == pytest.approx(expected, rel=0.1)
    assert model.ratios is not None
    found = predict(DRAFT, PRICE, model)
    assert found is not None
    assert found.low_usd < found.usd < found.high_usd
    assert not found.note


def test_too_few_audits_give_no_range_of_a_request() -> None:
    model = fit_baseline(lengths(10, 1))
    assert model.ratios is None
    found = predict(DRAFT, PRICE, model)
    assert found is not None
    assert found.note == "too few audits for a range"
    assert fit_baseline(NONE) == AS_DRAFT
    assert fit_baseline(lengths(1, 1)).audits == 1


@pytest.mark.parametrize("helped", [False, True])
def test_the_conformal_range_covers_new_requests(helped: bool) -> None:
    shares = []
    for seed in range(40):
        escalated = lengths(200, 1000 + seed, factor=3.0) if helped else None
        model = fit_baseline(lengths(200, seed), escalated)
        assert model.ratios is not None
        new = lengths(500, 5000 + seed)
        at = np.array([model.tokens(*pair) for pair in zip(new.prompt, new.draft, strict=True)])
        low, high = model.ratios
        shares.append(np.mean((new.large >= low * at) & (new.large <= high * at)))
    assert np.mean(shares) >= 0.945


def test_one_heavy_weight_leaves_no_range() -> None:
    rows = lengths(100, 1)
    weight = np.where(np.arange(100) == 0, 1000.0, 1.0)
    assert fit_baseline(Lengths(rows.prompt, rows.draft, rows.large, weight)).ratios is None


def test_weights_undo_a_choice_that_depends_on_length() -> None:
    rows = lengths(4000, 3)
    chance = np.where(rows.draft > 150, 0.9, 0.1)
    kept = np.random.default_rng(0).random(4000) < chance
    columns = (rows.prompt[kept], rows.draft[kept], rows.large[kept])
    weighted = fit_baseline(Lengths(*columns, 1 / chance[kept]))
    everything = fit_baseline(rows)
    assert weighted.tokens(100, 50) == pytest.approx(everything.tokens(100, 50), rel=0.1)


def test_the_model_travels_as_json() -> None:
    model = fit_baseline(lengths(100, 1))
    assert BaselineModel.model_validate_json(model.model_dump_json()) == model


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="every row"):
        Lengths(np.ones(2), np.ones(2), np.ones(2), np.ones(1))
