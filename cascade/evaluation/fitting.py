"""From recorded examples to a verdict: fit a calibration, say what it is worth, write artefacts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path

import numpy as np
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from pydantic import JsonValue

from cascade.confidence import LabelledDraft, MadeFor
from cascade.confidence.calibrating import calibrate, confidences, halves
from cascade.confidence.calibration import Calibration
from cascade.errors import ConfigurationError
from cascade.evaluation.crossfit import LEAST_ROWS, Options
from cascade.evaluation.features import Pair, pair_of
from cascade.evaluation.ladder import Ladder, climb, shape_of_calibration
from cascade.evaluation.metrics import Rows
from cascade.evaluation.page import to_page
from cascade.evaluation.recordings import Example, Transcript
from cascade.evaluation.verdict import FAIR_TEST, Evaluation, evaluate, to_document
from cascade.ledger.prices import Price, Pricing
from cascade.policies import Refusal, certify
from cascade.state import Usage
from cascade.tiers import OpenTier

CHARACTERS_PER_TOKEN, ASSUMED_OUTPUT_TOKENS = 4, 200
"""For the cost shown beforehand."""

MOST_LABELS, SHORT = 30, 40
"""So many different answers of so many characters are labels to choose from."""

REPEATS = 3
"""Of the cross-fitting of a calibration, which takes a tenth of a second for each of five folds."""

VALID_DAYS = 90
"""Traffic drifts: a promise older than a quarter should be proved again."""

# Before anything is asked ---------------------------------------------------------------------


def expected_usd(
    examples: Sequence[Example], pricing: Pricing, *, max_tokens: int | None = None, calls: int = 1
) -> Decimal | None:
    """Roughly the dollars of asking a model, `calls` times an example, from the length of texts
    and `max_tokens`; None when it has no token price."""
    total = Decimal(0)
    for example in examples:
        text = sum(len(str(message.text)) for message in example.messages)
        usage = Usage(
            input_tokens=text // CHARACTERS_PER_TOKEN + 16,
            output_tokens=max_tokens or ASSUMED_OUTPUT_TOKENS,
        )
        cost = pricing.cost(usage, None)
        if cost is None:
            return None
        total += cost * calls
    return total


def labels_of(examples: Sequence[Example]) -> tuple[str, ...]:
    """The answers to choose from, where the references are a few short texts that come again:
    they want temperature 0 and to be named in the system message."""
    counts = Counter(e.reference for e in examples if isinstance(e.reference, str))
    few = 0 < len(counts) <= MOST_LABELS and counts.total() >= 2 * len(counts)
    if not few or max(map(len, counts)) > SHORT:
        return ()
    return tuple(sorted(counts))


def with_shots(examples: Sequence[Example], shots: int) -> list[Example]:
    """The other examples, each with `shots` of them before its question, as many of each answer
    as there are.

    Raises:
        ConfigurationError: fewer examples with a reference than shots.
    """
    same: dict[str, list[Example]] = {}
    for example in examples:
        if example.reference is not None:
            same.setdefault(str(example.reference), []).append(example)
    in_turn = [e for one_of_each in zip_longest(*same.values()) for e in one_of_each if e]
    if not 0 <= shots <= len(in_turn):
        raise ConfigurationError(
            f"shots={shots}: only {len(in_turn)} examples have a reference to show."
            if shots > 0
            else f"shots={shots}: give a whole number, 0 or more."
        )
    shown: list[AnyMessage] = []
    for example in in_turn[:shots]:
        shown += [HumanMessage(example.question), AIMessage(str(example.reference))]
    ids = {example.id for example in in_turn[:shots]}

    def put(messages: tuple[AnyMessage, ...]) -> tuple[AnyMessage, ...]:
        first = 1 if messages[0].type == "system" else 0
        return (*messages[:first], *shown, *messages[first:])

    return [replace(e, messages=put(e.messages)) for e in examples if e.id not in ids]


# Fitting --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fitted:
    """A calibration as it decides online, with its certificates, and those that were refused.

    `evaluated` is what this way of calibrating is worth, on rows left out of it; None where there
    are too few rows to say.
    """

    calibration: Calibration
    refusals: tuple[Refusal, ...]
    evaluated: Evaluation | None

    @property
    def evaluation(self) -> Evaluation:
        """What it is worth.

        Raises:
            ConfigurationError: there are too few rows to say.
        """
        if self.evaluated is None:
            raise ConfigurationError(
                f"{self.calibration.quality.n} labelled drafts with both models are too few to say "
                f"what a cascade is worth: {LEAST_ROWS} or more are needed, and {FAIR_TEST} for a "
                "fair test."
            )
        return self.evaluated


def fit(
    records: Sequence[Transcript],
    made_for: MadeFor,
    signals: Sequence[tuple[str, int]],
    options: Options | None = None,
    *,
    max_harms: Sequence[float] = (),
    delta: float = 0.1,
) -> Fitted:
    """Calibrate on recorded answers, and say what that is worth.

    `signals` are (name, calls), cheapest first. With `max_harms`, bounds on P(accepted and wrong)
    to certify, one half of the rows fits the calibration and the other proves it; `delta` is the
    chance that a certificate does not hold.

    Raises:
        ConfigurationError: no row has both models, too few rows, or a bound that is none.
    """
    large = made_for.large.name if made_for.large is not None else ""
    pair = pair_of(records, made_for.small.name, large)
    outcomes, ids = pair.outcomes(pair.small), [row.id for row in pair.rows]
    labels = zip(
        outcomes, pair.small_correct.tolist(), pair.large_correct.tolist(), ids, strict=True
    )
    drafts = [LabelledDraft(o.features, right, best, name) for o, right, best, name in labels]

    def choose(part: Pair, rows: Rows) -> Ladder:
        made = calibrate([drafts[i] for i in rows], signals, made_for)
        return climb([shape_of_calibration(made, part, rows)])

    options = options or Options()
    options = options.model_copy(update={"repeats": options.repeats or REPEATS})
    enough = len(pair) >= LEAST_ROWS
    evaluation = evaluate(pair, options, choose=choose) if enough else None
    if not max_harms:
        return Fitted(calibrate(drafts, signals, made_for), (), evaluation)
    fitting, proving = halves(drafts)
    calibration = calibrate(fitting, signals, made_for)
    correct = np.array([draft.correct for draft in proving])
    until = datetime.now(UTC) + timedelta(days=VALID_DAYS)
    said = confidences(calibration, proving)
    found = [certify(said, correct, max_harm=h, delta=delta, valid_until=until) for h in max_harms]
    proved = tuple(c for c in found if not isinstance(c, Refusal))
    refused = (r.model_copy(update={"halved": True}) for r in found if isinstance(r, Refusal))
    calibration = calibration.model_copy(update={"certificates": proved})
    return Fitted(calibration, tuple(refused), evaluation)


def write_artefacts(
    folder: Path, fitted: Fitted, tiers: Sequence[OpenTier], name: str = "tried"
) -> dict[str, Path]:
    """Write the calibration, a page, and a `cascade.yaml` that `cascade serve` takes.

    Returns:
        the files, by what they are.

    Raises:
        ConfigurationError: the folder cannot be written.
    """
    found = fitted.evaluation
    files = {
        "calibration": folder / "calibration.json",
        "page": folder / "verdict.html",
        "configuration": folder / "cascade.yaml",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fitted.calibration.save(files["calibration"])
        files["page"].write_text(to_page(to_document(found)), encoding="utf-8")
        text = _configuration(name, list(map(_configured, tiers)), files["calibration"], found)
        files["configuration"].write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be written ({error.strerror}).") from error
    return files


def _configured(tier: OpenTier) -> dict[str, JsonValue]:
    """A tier as the service's configuration has it, with the price that the user has set."""
    asked, price = tier.settings.model, None
    if isinstance(tier.pricing, Price):
        price = tier.pricing.model_dump(mode="json", exclude_none=True, exclude={"source"})
    found: dict[str, JsonValue] = {
        "name": tier.name,
        "model": asked if isinstance(asked, str) else tier.model.name,
        "price": price,
        "max_tokens": tier.max_tokens,
        "temperature": tier.settings.temperature,
        "options": dict(tier.settings.options) or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _configuration(
    name: str, tiers: Sequence[dict[str, JsonValue]], calibration: Path, found: Evaluation
) -> str:
    """The service's configuration; what is JSON is YAML too."""
    price, shown = found.recommended.price_of_error_usd, ("cascade", "router", "small")
    decided = (
        f"    price_of_error: {price:.6g}\n"
        if found.verdict in shown and price is not None
        else "    # No saving was shown: the small model is measured beside the large one.\n"
        "    mode: shadow\n"
    )
    listed = "".join(f"      - {json.dumps(tier)}\n" for tier in tiers)
    made = "Made by `cascade try`"
    if any(str(tier["model"]).startswith("replay:") for tier in tiers):
        made = "A recording answers what was recorded alone: `cascade try` takes your models"
    return (
        f"# {made}; `cascade serve cascade.yaml` runs it.\n"
        "ledger: sqlite:///ledger.db\n"
        f"cascades:\n  {name}:\n    tiers:\n{listed}"
        f"    calibrator: {json.dumps(calibration.name)}\n"
        f"{decided}    audits: 0.05\n"
    )
