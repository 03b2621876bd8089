"""The large model's answers in tokens: what is said before audits, and what is learned of them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cascade.errors import ConfigurationError
from cascade.ledger.baseline import AS_DRAFT, BaselineModel, predict, predict_usd
from cascade.ledger.lengths import Lengths, fit_baseline
from cascade.ledger.prices import Price
from cascade.state import Usage

PRICE = Price(input=1, output=10)
DRAFT = Usage(input_tokens=100, output_tokens=50)
NONE = Lengths([], [], [], [])


def lengths(n: int, seed: int, factor: float = 2.0) -> Lengths:
    rng = np.random.default_rng(seed)
    prompt, draft = rng.integers(20, 500, n) * 1.0, rng.integers(10, 300, n) * 1.0
    large = np.round(factor * draft**0.8 * rng.lognormal(0, 0.4, n)) + 1
    return columns(prompt, draft, large, np.ones(n))


def columns(*of: NDArray[Any]) -> Lengths:
    prompt, draft, large, weight = (column.tolist() for column in of)
    return Lengths(prompt, draft, large, weight)


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


@pytest.mark.parametrize("usage", [DRAFT, Usage(), Usage(input_tokens=1), Usage(output_tokens=1)])
@pytest.mark.parametrize("price", [PRICE, Price(input=1, output=10, cached_input="0.1")])
@pytest.mark.parametrize("cap", [None, 40, 400])
@pytest.mark.parametrize("model", [AS_DRAFT, fit_baseline(lengths(40, seed=3))])
def test_without_a_range_it_is_the_same(
    usage: Usage, price: Price, cap: int | None, model: BaselineModel
) -> None:
    given = {"cap": cap, "cached_tokens": 30, "written_tokens": 20, "tool_calls": 1}
    found = predict(usage, price, model, **given)  # type: ignore[arg-type]
    alone = predict_usd(usage, price, model, **given)  # type: ignore[arg-type]
    assert alone == (None if found is None else found.usd)


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
        pairs = zip(new.prompt, new.draft, strict=True)
        at = np.array([model.tokens(int(prompt), int(draft)) for prompt, draft in pairs])
        low, high = model.ratios
        large = np.array(new.large)
        shares.append(np.mean((large >= low * at) & (large <= high * at)))
    assert np.mean(shares) >= 0.945


def test_one_heavy_weight_leaves_no_range() -> None:
    rows = lengths(100, 1)
    weight = [1000.0] + [1.0] * 99
    assert fit_baseline(Lengths(rows.prompt, rows.draft, rows.large, weight)).ratios is None


def test_weights_undo_a_choice_that_depends_on_length() -> None:
    rows = lengths(4000, 3)
    prompt, draft, large = (np.array(c) for c in (rows.prompt, rows.draft, rows.large))
    chance = np.where(draft > 150, 0.9, 0.1)
    kept = np.random.default_rng(0).random(4000) < chance
    weighted = fit_baseline(columns(prompt[kept], draft[kept], large[kept], 1 / chance[kept]))
    everything = fit_baseline(rows)
    assert weighted.tokens(100, 50) == pytest.approx(everything.tokens(100, 50), rel=0.1)


def test_the_model_travels_as_json() -> None:
    model = fit_baseline(lengths(100, 1))
    assert BaselineModel.model_validate_json(model.model_dump_json()) == model


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="every row"):
        Lengths([1, 1], [1, 1], [1, 1], [1])


def test_the_fit_is_what_linear_algebra_in_numpy_found() -> None:
    prompt = [20.0 + (37 * i) % 480 for i in range(120)]
    draft = [10.0 + (53 * i) % 290 for i in range(120)]
    spread = [0.5 + ((29 * i) % 100) / 100 for i in range(120)]
    large = [float(round(2 * d**0.8 * s)) for d, s in zip(draft, spread, strict=True)]
    audits = Lengths(prompt, draft, large, [1.0 + i % 4 for i in range(120)])
    alone = fit_baseline(audits)
    escalated = [3 * tokens for tokens in large[:50]]
    helped = fit_baseline(audits, Lengths(prompt[:50], draft[:50], escalated, audits.weight[:50]))
    assert [*alone.coefficients, alone.smear, *(alone.ratios or ())] == pytest.approx(
        [
            0.7831411131742507,
            0.8324294576826639,
            -0.0561126080983147,
            1.0446878694720814,
            0.45669427043730987,
            1.5506739630258963,
        ],
        abs=1e-9,
    )
    assert [*helped.coefficients, helped.smear, *(helped.ratios or ())] == pytest.approx(
        [
            1.5239738678782826,
            0.8557725518206032,
            -0.011687421914902133,
            1.0478292353766627,
            0.16876551466710793,
            0.5323767305466461,
        ],
        abs=1e-9,
    )
    assert (helped.audits, helped.escalated) == (120, 50)
