"""What a plan is made from: prices, tokens, speeds, the accept rate, and what owning costs."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, ValidationError, model_validator

from cascade.errors import ConfigurationError
from cascade.ledger import ListPrice, Price
from cascade.state import Record, Usage

CHECK_QUESTION_TOKENS = 30
"""What a self-check asks beyond the question and the draft (`cascade.confidence.p_true`)."""

CHECK_ANSWER_TOKENS = 4
"""Room for its one word."""

HOURS_PER_MONTH = Decimal(730)

Share = Annotated[Decimal, Field(ge=0, le=1)]
Amount = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[Decimal, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class Checked(Record):
    """Says in its errors which value was wrong."""

    # Type checkers know the fields from their annotations.
    if not TYPE_CHECKING:  # pragma: no branch

        def __init__(self, **values: object) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise ConfigurationError(_message(type(self).__name__, error)) from error


def _message(owner: str, error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return f"{owner}: {first['msg'].removeprefix('Value error, ')}"
    given = "" if first["type"] == "missing" else f"={first['input']!s}"
    return f"{owner}({first['loc'][0]}{given}): {first['msg']}."


class Hardware(Checked):
    """The machine of a local model, as its busy hours cost it.

    Args:
        hourly_usd: rent per hour, or what an hour of an owned machine is worth to you.
        utilisation: share of the paid hours in which it computes; the idle rest is paid too.
        kw: what it draws while it computes.
        kwh_usd: price of power.
    """

    hourly_usd: Amount = Decimal(0)
    utilisation: Annotated[Decimal, Field(gt=0, le=1)] = Decimal(1)
    kw: Amount = Decimal(0)
    kwh_usd: Amount = Decimal(0)

    @model_validator(mode="after")
    def _complete(self) -> Hardware:
        if self.kw and not self.kwh_usd:
            raise ValueError(f"kw={self.kw} has no price: give kwh_usd.")
        if self.utilisation != 1 and not self.hourly_usd:
            raise ValueError(
                f"utilisation={self.utilisation} divides the price per hour: give hourly_usd."
            )
        return self

    def price(self) -> Price:
        """Dollars per busy hour: $/h ÷ utilisation + kW × $/kWh (DESIGN, Feasibility).

        Raises:
            ConfigurationError: that is 0: no machine is free.
        """
        if not self.hourly_usd and not self.kw:
            raise ConfigurationError(
                "the price of the small model is not set: a local model costs hardware or power "
                "(hourly, or kw and kwh-price), a hosted one has token prices."
            )
        return Price.local(
            hardware_per_hour=self.hourly_usd,
            utilisation=self.utilisation,
            kw=self.kw,
            kwh=self.kwh_usd,
        )


class Ownership(Checked):
    """What the small model costs per month whether or not a request comes.

    Args:
        purchase_usd: machine, training and set-up, paid once.
        months: over which the purchase is written off.
        maintenance_hours: of a person, per month.
        hour_usd: what such an hour costs.
        standby_kw: what the machine draws all month long, used or not.
        kwh_usd: price of power.
    """

    purchase_usd: Amount = Decimal(0)
    months: Positive = Decimal(36)
    maintenance_hours: Amount = Decimal(0)
    hour_usd: Amount = Decimal(0)
    standby_kw: Amount = Decimal(0)
    kwh_usd: Amount = Decimal(0)

    @model_validator(mode="after")
    def _complete(self) -> Ownership:
        pairs = (("maintenance_hours", "hour_usd"), ("standby_kw", "kwh_usd"))
        for amount, price in pairs:
            if getattr(self, amount) and not getattr(self, price):
                raise ValueError(f"{amount}={getattr(self, amount)} has no price: give {price}.")
        return self

    def monthly_usd(self) -> Decimal:
        """purchase ÷ months + hours × rate + standby kW × 730 h × $/kWh."""
        power = self.standby_kw * HOURS_PER_MONTH * self.kwh_usd
        return self.purchase_usd / self.months + self.maintenance_hours * self.hour_usd + power


class PlanInputs(Checked):
    """The figures of a planned cascade.

    Args:
        small: price of the small model, per token, per busy hour, or both.
        large: price of the large model.
        input_tokens: of a request.
        output_tokens: of the small model's answer.
        large_output_tokens: of the large model's answer; as the small one's when not given.
        busy_s: seconds that the small model computes for a draft.
        tokens_per_s: instead of `busy_s`, how fast it writes.
        prompt_tokens_per_s: how fast it reads; reading takes no time when not given.
        check_calls: calls of the self-check per draft; log-probs need none.
        check_usd: dollars of the self-check per draft, instead of pricing its calls.
        accept_rate: expected share of accepted drafts, a.
        accept_n: on how many examples it was seen; gives every figure its interval.
        small_s: seconds until a draft is there and checked; its busy time when not given.
        large_s: seconds until a large answer is there.
        requests_per_month: for the bill.
        ownership: fixed cost per month.
        draft_error: share of drafts that are wrong, μ.
        max_harm: bound on P(accepted and wrong), α.

    Raises:
        ConfigurationError: a value is out of range, or does not go with another; it is named.
    """

    small: Price | ListPrice
    large: Price | ListPrice
    input_tokens: Count
    output_tokens: Count
    large_output_tokens: Count | None = None
    busy_s: Amount | None = None
    tokens_per_s: Positive | None = None
    prompt_tokens_per_s: Positive | None = None
    check_calls: Count = 0
    check_usd: Amount | None = None
    accept_rate: Share | None = None
    accept_n: Annotated[int, Field(ge=1)] | None = None
    small_s: Amount | None = None
    large_s: Positive | None = None
    requests_per_month: Amount | None = None
    ownership: Ownership = Field(default_factory=Ownership)
    draft_error: Share | None = None
    max_harm: Annotated[Decimal, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> PlanInputs:
        together: Mapping[str, str] = {
            "accept_n": "accept_rate",
            "prompt_tokens_per_s": "tokens_per_s",
            "draft_error": "max_harm",
            "max_harm": "draft_error",
        }
        for given, needed in together.items():
            if getattr(self, given) is not None and getattr(self, needed) is None:
                raise ValueError(f"{given}={getattr(self, given)} needs {needed} too.")
        if self.busy_s is not None and self.tokens_per_s is not None:
            raise ValueError(
                f"busy_s={self.busy_s} and tokens_per_s={self.tokens_per_s} say the same twice: "
                "give one of them."
            )
        return self

    def draft_cost_usd(self) -> Decimal:
        """c_S: dollars of a draft.

        Raises:
            ConfigurationError: the price is by the hour and no speed is given.
        """
        return self._small_usd(self.input_tokens, self.output_tokens)

    def check_cost_usd(self) -> Decimal:
        """c_V: dollars of checking a draft.

        A call reads the question, the draft and a short question, and writes a word. Its busy
        time comes from the speeds; with `busy_s` alone it is taken as long as the draft.

        Raises:
            ConfigurationError: the price is by the hour and no speed is given.
        """
        if self.check_usd is not None:
            return self.check_usd
        return self.check_calls * self._small_usd(*self._check_tokens())

    def large_cost_usd(self) -> Decimal:
        """c_L: dollars of a large answer.

        Raises:
            ConfigurationError: the price is by the hour.
        """
        output = self.large_output_tokens
        output = self.output_tokens if output is None else output
        cost = self.large.cost(Usage(input_tokens=self.input_tokens, output_tokens=output))
        if cost is None:
            raise ConfigurationError(
                "the price of the large model is per hour: give it per token, Price(input=…, "
                "output=…)."
            )
        return cost

    def small_seconds(self) -> Decimal | None:
        """t_S: seconds until a draft is there and checked; None where nobody knows."""
        if self.small_s is not None:
            return self.small_s
        draft = self._busy_s(self.input_tokens, self.output_tokens)
        check = self._busy_s(*self._check_tokens())
        return None if draft is None or check is None else draft + self.check_calls * check

    def _check_tokens(self) -> tuple[int, int]:
        return self.input_tokens + self.output_tokens + CHECK_QUESTION_TOKENS, CHECK_ANSWER_TOKENS

    def _small_usd(self, input_tokens: int, output_tokens: int) -> Decimal:
        busy_s = self._busy_s(input_tokens, output_tokens)
        usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
        busy_ms = None if busy_s is None else float(busy_s * 1000)
        cost = self.small.cost(usage, busy_ms)
        if cost is None:
            raise ConfigurationError(
                "the small model is priced per busy hour: give busy_s, the seconds that it "
                "computes for a draft, or tokens_per_s."
            )
        return cost

    def _busy_s(self, input_tokens: int, output_tokens: int) -> Decimal | None:
        if self.tokens_per_s is None:
            return self.busy_s
        reading = Decimal(0)
        if self.prompt_tokens_per_s is not None:
            reading = input_tokens / self.prompt_tokens_per_s
        return output_tokens / self.tokens_per_s + reading
