"""What a service is told to run. `docs/service.md` has each key with its meaning, from here."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from ipaddress import ip_network
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from cascade.agents.audit_rates import Allocation
from cascade.ledger.texts import KeptTexts
from cascade.oversight.alarms import Reaction
from cascade.oversight.audits import Comparing
from cascade.oversight.shadow import Mode
from cascade.policies.risk import Risk
from cascade.service.sections import (
    Count,
    LessonsConfig,
    QueueConfig,
    Seconds,
    Section,
    Share,
    SheddingConfig,
)

Dollars = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]
Patience = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")]
Exhausted = Literal["refuse", "local_only"]

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ListenConfig(Section):
    """Where the service listens."""

    host: str = "127.0.0.1"
    """Address; `0.0.0.0` for all of this machine."""
    port: int = Field(default=8080, ge=0, le=65535)
    """Port; 0 takes a free one."""
    proxies: tuple[str, ...] = LOOPBACK[:2]
    """Addresses or networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are true."""
    connections: Count = 4096
    """Connections at once; one more gets 503. Fewer where the system allows fewer open files."""
    arrive_s: Seconds = 60.0
    """Seconds in which a request has to arrive whole, and a client may leave an answer unread."""

    @field_validator("proxies")
    @classmethod
    def _are_addresses(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in given:
            ip_network(proxy, strict=False)
        return given


class LedgerConfig(Section):
    """Where the ledger and the keys are kept."""

    url: str = Field(repr=False)
    """`sqlite:///ledger.db`, `postgresql://…`, or `memory://` to keep nothing."""
    texts: KeptTexts = "none"
    """Which prompts and answers are kept: `none`, `pending` (of audits not done yet), `all`."""
    crash_safe: bool = True
    """Write each call down before it is sent, so that a killed process leaves a trace."""
    durable: bool = False
    """Survive a loss of power: each commit waits for the disk."""
    hash_key_env: str | None = None
    """Environment variable with a secret for the hashes of prompts and answers."""
    mask_secrets: bool = True
    """Take keys, addresses and numbers out of what is kept as text."""


class PriceConfig(Section):
    """A price in US dollars; tokens are per million."""

    input: Dollars | None = None
    """Per 1M input tokens."""
    output: Dollars | None = None
    """Per 1M output tokens."""
    cached_input: Dollars | None = None
    """Per 1M input tokens read from the provider's cache."""
    cache_write: Dollars | None = None
    """Per 1M input tokens written to the provider's cache."""
    per_tool_call: Dollars | None = None
    """Per tool call in an answer."""
    per_hour: Dollars | None = None
    """Per hour in which a local model computes."""
    power_per_hour: Dollars | None = None
    """The part of `per_hour` that is power."""
    batch_share: Dollars | None = None
    """The part of the price that a call by the provider's batch API costs: 0.5 is half."""


class TierConfig(Section):
    """One model of a cascade."""

    model: str = Field(min_length=1)
    """`provider:name`, such as `ollama:qwen2.5:3b` or `openai:gpt-5.1`."""
    name: Name | None = None
    """How answers and the ledger call it; by default `small` and `large`, else the model."""
    price: PriceConfig | None = None
    """Instead of the list price. A local model has none until it is set."""
    base_url: str | None = Field(default=None, repr=False)
    """Address of an OpenAI-compatible or Ollama server."""
    api_key_env: str | None = None
    """Environment variable with the provider's key."""
    api_key: str | None = Field(default=None, repr=False)
    """The same as `${NAME}`; a key in clear text is refused."""
    max_tokens: Count | None = None
    """Most output tokens of an answer."""
    temperature: float | None = Field(default=None, ge=0)
    """Left to the provider if not given."""
    timeout_s: Seconds = 120.0
    """Seconds after which a call has failed."""
    local: bool | None = None
    """Whether questions that stay on this machine may go to it; by default by its address."""
    options: Mapping[str, Any] = Field(default_factory=dict, repr=False)
    """For its adapter, or sent to the provider with every request."""


class AuditConfig(Section):
    """How accepted drafts are audited."""

    rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Share of accepted drafts, on average."""
    floor: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Least chance of each where the allocation is `optimal`."""
    allocation: Allocation = "constant"
    """`constant`, the same chance for all, or `optimal`, more for doubtful and cheap ones."""
    daily_usd: Annotated[Decimal, Field(gt=0, allow_inf_nan=False)] | None = None
    """Dollars per day of UTC for audits and their judge; the rate is lowered so that it lasts."""
    judge: TierConfig | None = None
    """A model that compares long answers without knowing whose they are."""
    judge_repeat: Share = 0.1
    """Share of its comparisons that it makes twice, in either order."""
    judge_planted: Share = 0.0
    """Share after which it is shown the draft beside itself."""
    compare: Comparing = "auto"
    """How a draft is compared with the large model's answer."""
    seed: str = ""
    """Of the draws."""


class DriftConfig(Section):
    """What drift is watched for; a reaction is `warn`, `audit`, `tighten` or `large_only`."""

    signals: Reaction = "audit"
    """Where a signal or the confidence has moved."""
    escalations: Reaction = "audit"
    """Where the escalation rate has."""
    harm: Reaction = "large_only"
    """Where more accepted drafts are wrong than was promised."""
    calibration: Reaction = "warn"
    """Where the calibration is void."""
    window: Annotated[int, Field(ge=20)] = 200
    """Values of a signal that are compared with the reference at a time."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.001
    """Chance of a false alarm of one signal in one window."""
    run_length: Annotated[float, Field(ge=3)] = 100_000.0
    """Requests between false alarms of the escalation rate."""
    max_harm: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Harm of which audits must not show more; by default that of the certificate."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Chance that a harm within the bound is ever called more."""
    reference: Annotated[int, Field(ge=50)] = 500
    """Decisions from which is learned what is usual."""
    error_odds: Annotated[float, Field(ge=1)] = 2.0
    """At `tighten` the odds of an error count so many times as high."""
    audit_factor: Annotated[float, Field(ge=1)] = 4.0
    """From `audit` on, audits are so many times as frequent."""


class RetriesConfig(Section):
    """When a failed call is sent again, with full jitter, and within a budget."""

    attempts: Count = 3
    """Attempts of one call, with the first."""
    base_s: Patience = 0.5
    """Most seconds before the second attempt; twice as many before the third, and so on."""
    cap_s: Patience = 8.0
    """Most seconds before any."""
    share: Patience = 0.2
    """Retries per call that a tier is allowed."""
    reserve: int = Field(default=10, ge=0)
    """Retries a minute that it is allowed besides."""


class BreakerConfig(Section):
    """When a tier that fails is left alone, and for how long."""

    in_a_row: Count | Literal[False] = 5
    """Failures one after the other that open it; `false` for no such limit."""
    rate: Annotated[float, Field(gt=0, le=1)] | Literal[False] = 0.5
    """Share of failures in the window that opens it; `false` for no such limit."""
    window_s: Seconds = 30.0
    """Seconds over which the share is taken."""
    least_calls: Count = 20
    """Calls in the window below which a share says nothing."""
    open_s: Seconds = 2.0
    """Seconds until one call tries the server again."""
    growth: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    """Factor of this with each such call that fails."""
    most_open_s: Seconds = 15.0
    """Most seconds between two of them."""


class BulkheadConfig(Section):
    """How many calls to a tier may be under way."""

    most: Count = 256
    """Calls at the same time."""
    waiting: int = Field(default=10_000, ge=0)
    """Calls that may wait for a place; one more fails at once."""
    wait_s: Seconds = 60.0
    """Most seconds that one waits."""


class TierResilience(Section):
    """The same for one tier, in place of all of it."""

    retries: RetriesConfig | Literal[False] = RetriesConfig()
    """When a failed call is sent again; `false` for never."""
    breaker: BreakerConfig | Literal[False] = BreakerConfig()
    """When a tier is left alone; `false` for never."""
    bulkhead: BulkheadConfig | Literal[False] = BulkheadConfig()
    """How many calls may be under way; `false` for any number."""


class ResilienceConfig(TierResilience):
    """What stands around each call to a model."""

    tiers: Mapping[str, TierResilience] = Field(default_factory=dict)
    """Other settings for some tiers, by their names."""


class CascadeConfig(Section):
    """One cascade, which clients name as their model."""

    tiers: tuple[TierConfig, ...] = Field(min_length=1)
    """Its models, small to large."""
    calibrator: str | None = None
    """File made by `cascade calibrate`; watched, and loaded again when it changes."""
    price_of_error: float | None = Field(default=None, gt=0)
    """Dollars that a wrong answer costs."""
    max_harm: float | None = Field(default=None, gt=0, lt=1)
    """Bound on P(accepted and wrong); needs a calibration with a certificate."""
    escalation_budget: Share | None = None
    """Share of requests that may be escalated; needs a calibration."""
    threshold: Share | None = None
    """Accept at this confidence and above."""
    signals: tuple[str, ...] = ()
    """What the self-check takes; by default log-probs, else `p_true`."""
    deadline: Seconds | None = None
    """Seconds for a whole run; a request may ask for less."""
    abort: bool | Annotated[float, Field(gt=0, lt=1)] = False
    """Stop a draft that cannot be accepted any more; or the share that may be lost by it."""
    hedge: bool | Annotated[float, Field(gt=0)] = False
    """Ask the large model beside the draft where a deadline leaves no time to ask it after; or the
    seconds it is taken to need."""
    reuse: str | None = Field(default=None, min_length=1)
    """Show the large model the escalated draft: `correct`, or a file of `cascade evaluate`."""
    latch: bool = False
    """After repeated trouble in a conversation, ask the large model at once for a while."""
    response_format: Mapping[str, Any] | None = None
    """JSON schema; a draft that breaks it is escalated. A request may bring another."""
    tool_risks: Mapping[str, Risk] | None = None
    """Tools by name as `read`, `write` or `irreversible`."""
    audit_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of accepted drafts that the large model is asked about as well."""
    audits: AuditConfig | None = None
    """The same, with how they are compared and what a day of them may cost."""
    mode: Mode = "live"
    """`live`, `shadow` or `canary`."""
    canary_share: Share = 0.1
    """Share of requests that is live in the mode `canary`."""
    drift: Reaction | DriftConfig | None = None
    """Watch for drift: one reaction to every alarm (`warn`, `audit`, `tighten`, `large_only`), or
    one for each kind."""
    local_only: bool | Literal["answer", "abstain"] = False
    """Keep every question on this machine; and what becomes of those too hard for it."""
    private: Literal["looks_personal"] | None = None
    """Keep questions that look personal on this machine."""
    tags: Mapping[str, str] = Field(default_factory=dict)
    """Of every ledger entry."""
    lessons: bool = True
    """Keep its lessons, where the service keeps any."""
    memory: bool = False
    """Show its small model lessons as examples, where they are known to help. It needs lessons and
    audits."""
    resilience: ResilienceConfig = ResilienceConfig()
    """What stands around each call to a model."""
    fallback: tuple[Literal["draft", "queue", "fail"] | QueueConfig | TierConfig, ...] | None = None
    """What follows where the large model cannot be had, in order: another model; `draft`; `queue`,
    bounded by the deadline, or with bounds of its own; `fail`. By default the draft, if usable."""
    shedding: bool | SheddingConfig = False
    """Under pressure leave out audits first, then shadow drafts, then paid signals."""
    concurrency: Count = 64
    """Requests that run at once; the next ones wait in the queue."""
    queue: int = Field(default=256, ge=0)
    """Requests that may wait; one more gets 429."""
    queue_timeout_s: Seconds = 30.0
    """Longest wait in the queue, then 429."""
    answer_tokens: Count = 1024
    """Tokens of an answer that a budget puts aside where nobody says how long it may become."""

    @field_validator("fallback", mode="before")
    @classmethod
    def _nobody_is_there(cls, given: object) -> object:
        if given == "ask" or (isinstance(given, list | tuple) and "ask" in given):
            raise ValueError(
                "'ask' waits for a person, and a request has nobody to ask: leave it out, or use "
                "the cascade in a graph with a checkpointer"
            )
        return given

    @model_validator(mode="after")
    def _one_policy(self) -> CascadeConfig:
        names = ("price_of_error", "max_harm", "escalation_budget", "threshold")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)}: each decides alone; give one")
        if self.audit_rate is not None and self.audits is not None:
            raise ValueError("audit_rate and audits: give one; audits has a rate of its own")
        return self


class BudgetConfig(Section):
    """What happens when a key's money is used up."""

    exhausted: Exhausted = "refuse"
    """`refuse` answers 402; `local_only` keeps the question on this machine."""
    unknown_call_usd: Dollars = Decimal("0.01")
    """What a call counts whose cost nobody knows, such as one of a tier without a price."""


class ReplicasConfig(Section):
    """How several processes share a ledger in PostgreSQL."""

    lease_s: Annotated[float, Field(ge=1, le=3600)] = 30.0
    """Seconds after which one that says nothing is dead, and what it put aside is released."""


class LogConfig(Section):
    """What the service writes to standard error."""

    format: Literal["text", "json"] = "text"
    """Lines for people, or one JSON object a line."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is written. No level shows prompts, answers or keys."""
    requests: bool = True
    """One line for each finished run."""


class ServiceConfig(Section):
    """All of a service."""

    cascades: Mapping[Name, CascadeConfig] = Field(min_length=1)
    """By the name that clients call as their model."""
    allow_tiers: bool = False
    """Show single tiers as models too, named `cascade/tier`."""
    ledger: LedgerConfig | None = None
    """Where entries and keys are kept; an address alone is its `url`."""
    lessons: LessonsConfig | None = None
    """Keep what larger models answered for smaller ones, as lessons; none unless this is given."""
    listen: ListenConfig = ListenConfig()
    """Where it listens."""
    budgets: BudgetConfig = BudgetConfig()
    """What happens when a key's money is used up."""
    replicas: ReplicasConfig = ReplicasConfig()
    """How several processes share a ledger in PostgreSQL."""
    log: LogConfig = LogConfig()
    """What is written to standard error."""
    auth: bool = True
    """Ask for a key; without, it may listen on this machine's loopback only."""
    max_body_mib: Annotated[float, Field(gt=0, le=1024)] = 32.0
    """Longest body of a request; a longer one gets 413."""
    recent: Count = 500
    """Finished requests that the page can show."""
    shutdown_grace_s: Seconds = 30.0
    """Seconds that running requests have to finish after SIGTERM."""
    watch_s: Seconds = 2.0
    """Seconds between two looks at the calibration files."""

    @field_validator("ledger", mode="before")
    @classmethod
    def _an_address(cls, given: object) -> object:
        return {"url": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _keys_have_a_place(self) -> ServiceConfig:
        if not self.auth and self.listen.host not in LOOPBACK:
            raise ValueError(
                f"without keys it may listen on loopback only, not on {self.listen.host}: "
                "set listen.host to 127.0.0.1, or let it ask for keys"
            )
        return self
