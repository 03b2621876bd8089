"""Configuration of a service: `cascade.yaml`. Errors name the file, the line and the key; secrets
are variables (`${NAME}`, `api_key_env`)."""

from __future__ import annotations

import importlib
import operator
import os
import re
import sys
from collections.abc import Mapping
from decimal import Decimal
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.networks import IPvAnyNetwork

from cascade.errors import ConfigurationError
from cascade.ledger.prices import Price, to_price
from cascade.service.faults import place_in
from cascade.tiers import Tier

Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")]

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Hosts on which a service without keys may listen, and by which it may be asked."""

RESTART = ("listen", "ledger", "auth", "shutdown_grace_s", "log")
"""Keys that a running service does not change."""


class Section(BaseModel):
    """Base of the parts of a configuration: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ListenConfig(Section):
    """Address of the service."""

    host: str = "127.0.0.1"
    """Address; `0.0.0.0` for all of this machine."""
    port: int = Field(default=8080, ge=0, le=65535)
    """Port; 0 takes a free one."""
    proxies: tuple[IPvAnyNetwork, ...] = (ip_network("127.0.0.1"), ip_network("::1"))
    """Addresses or networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are true."""
    connections: Count = 4096
    """Connections at once; a request of one more gets 503."""


class TierConfig(Section):
    """One model or agent of a cascade."""

    model: str | None = Field(default=None, min_length=1)
    """`provider:name`, such as `ollama:qwen2.5:3b` or `openai:gpt-5.1`."""
    agent: str | None = Field(default=None, pattern=r"^[\w.]+:[\w.]+$")
    """In place of a model, `module:name` of an `AgentTier` or of what it takes: a graph, a Runnable
    or a coroutine function of messages. Modules stand beside the configuration or are installed;
    a changed one needs a restart."""
    name: Name | None = None
    """How answers and the ledger call it; by default `small` and `large`, else the model."""
    price: Annotated[Price, BeforeValidator(to_price)] | None = None
    """Instead of the list price, in dollars: `input`, `output`, `cached_input`, `cache_write` and
    `cache_write_1h` per million tokens, or of a local model, which has none until it is set,
    `per_hour`, or `hardware_per_hour`, `utilisation`, `kw` and `kwh`."""
    base_url: str | None = Field(default=None, repr=False)
    """Address of an OpenAI-compatible or Ollama server."""
    api_key_env: str | None = None
    """Environment variable with the provider's key."""
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

    @model_validator(mode="after")
    def _is_one(self) -> TierConfig:
        if (self.model is None) == (self.agent is None):
            raise ValueError("give a model, or an agent in its place")
        return self

    def open(self, folder: Path) -> Tier:
        """The tier, with an agent's module perhaps in the folder of the configuration.

        Raises:
            ConfigurationError: the variable with its key is not set, or there is no such agent.
        """
        given = dict(self)
        if (agent := given.pop("agent")) is not None:
            given["model"] = _agent(agent, folder)
        if (variable := given.pop("api_key_env")) is not None:
            given["api_key"] = os.environ.get(variable)
            if not given["api_key"]:
                raise ConfigurationError(f"api_key_env: {variable} is not set in the environment.")
        return Tier(**given)


def _agent(name: str, folder: Path) -> Any:
    """The agent of a module, which may stand beside the configuration."""
    from cascade.integrations.agent_tier import AgentTier  # noqa: PLC0415 - it loads LangGraph

    module, _, attribute = name.partition(":")
    if (path := str(folder.absolute())) not in sys.path:
        sys.path.insert(0, path)
    try:
        found = operator.attrgetter(attribute)(importlib.import_module(module))
        return found if isinstance(found, AgentTier) else AgentTier(found, name=attribute)
    except (Exception, SystemExit) as error:  # a module may raise anything where it is imported
        said = str(error).rstrip(".")
        raise ConfigurationError(
            f"agent: {name!r} cannot be had: {type(error).__name__}: {said}; give module:name of "
            "a module beside the configuration, or of one that is installed."
        ) from error


class AuditConfig(Section):
    """Audits of accepted drafts."""

    rate: float = Field(default=0.05, gt=0, le=1)
    """Share of accepted drafts."""
    daily_usd: Decimal | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Dollars per day of UTC for audits; the rate is lowered so that they last."""
    compare: str = "auto"
    """How a draft is compared with the large model's answer."""
    judge: TierConfig | None = None
    """A model that compares long answers."""


def _with_rate(given: object) -> object:
    return {"rate": given} if type(given) in (int, float) else given


class PromptTurn(Section):
    """One message."""

    role: Literal["system", "user", "assistant"]
    content: str


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
    sticky: bool = False
    """Keep a conversation with the tier that answered it while its prompt cache is worth more."""
    prompt: tuple[PromptTurn, ...] = ()
    """Messages before every conversation that has no system message of its own, as a calibration
    was made with them."""
    response_format: Mapping[str, Any] | None = None
    """JSON schema; a draft that breaks it is escalated. A request may bring another."""
    tool_risks: Mapping[str, Literal["read", "write", "irreversible"]] | None = None
    """Tools by name as `read`, `write` or `irreversible`."""
    audits: Annotated[AuditConfig | None, BeforeValidator(_with_rate)] = None
    """Ask the large model about a share of accepted drafts as well; a number is its `rate`."""
    mode: Literal["live", "shadow", "canary"] = "live"
    """`shadow`: the large model answers, drafts are made beside it; `canary`: a share is live."""
    canary_share: Share = 0.1
    """Share of requests that is live in the mode `canary`."""
    drift: Literal["warn", "audit", "large_only"] | None = None
    """Watch for drift, and react to every alarm like this."""
    local_only: bool | Literal["answer", "abstain"] = False
    """Keep every question on this machine; and what becomes of those too hard for it."""
    private: Literal["looks_personal"] | None = None
    """Keep questions that look personal on this machine."""
    tags: Mapping[str, str] = Field(default_factory=dict)
    """Of every ledger entry."""
    retries: Count = 3
    """Attempts of one call, with the first."""
    breaker: Count = 5
    """Failures in a row after which a server is left alone for some seconds."""
    fallback: TierConfig | None = None
    """Another model where the large one cannot be had; by default the draft is the answer."""
    concurrency: Count = 64
    """Requests that run at once; the next ones wait, and get 429 after 30 seconds."""


class LogConfig(Section):
    """Log of the service on standard error."""

    format: Literal["text", "json"] = "text"
    """Lines for people, or one JSON object a line."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is written. No level shows prompts, answers or keys."""


class ServiceConfig(Section):
    """All of a service."""

    cascades: Mapping[Name, CascadeConfig] = Field(min_length=1)
    """By the name that clients call as their model."""
    ledger: str | None = Field(default=None, repr=False)
    """Where entries, keys and budgets are kept: `sqlite:///ledger.db`, `postgresql://…`, or
    `memory://` to keep nothing."""
    listen: ListenConfig = ListenConfig()
    """Where it listens."""
    unknown_call_usd: Decimal = Field(default=Decimal("0.01"), ge=0, allow_inf_nan=False)
    """What a call of unknown cost counts for budgets, such as one of a tier without a price."""
    log: LogConfig = LogConfig()
    """What is written to standard error."""
    auth: bool = True
    """Ask for a key; without, it may listen on this machine's loopback only."""
    max_body_mib: Annotated[float, Field(gt=0, le=64)] = 32.0
    """Longest body of a request; a longer one gets 413."""
    shutdown_grace_s: Seconds = 30.0
    """Seconds that running requests have to finish after SIGTERM."""

    @model_validator(mode="after")
    def _keys_have_a_place(self) -> ServiceConfig:
        if not self.auth and self.listen.host not in LOOPBACK:
            raise ValueError(
                f"without keys it may listen on loopback only, not on {self.listen.host}: "
                "set listen.host to 127.0.0.1, or let it ask for keys"
            )
        if self.auth and (not self.ledger or self.ledger.startswith("memory:")):
            raise ValueError(
                "keys are kept in the ledger's database: set ledger, such as "
                "sqlite:///ledger.db; or start with --no-auth on this machine's loopback"
            )
        return self


class Configured(ServiceConfig):
    """A configuration with its file and what went over it, such as options of a command."""

    path: Path
    overrides: Mapping[str, Any]


# --- reading a file

Place = tuple[str | int, ...]
"""The way to a value: names of keys, and numbers in lists."""


def read_config(path: str | Path, *, overrides: Mapping[str, Any] | None = None) -> Configured:
    """The configuration in a YAML file, where `${NAME}` stands for an environment variable;
    `overrides` go over it. Calibrations, and a ledger of SQLite, are relative to its folder.

    Raises:
        ConfigurationError: with a line for each thing that is wrong.
    """
    path, overrides = Path(path), overrides or {}
    reader = _Reader(path)
    written, problems = _merged(reader.document, overrides), reader.problems
    if not problems:
        try:
            config = ServiceConfig.model_validate(written)
        except ValidationError as error:
            problems = _problems(error, written, reader.text)
        else:
            found = dict(config)
            if beside := re.fullmatch("sqlite:///([^/].*)", config.ledger or ""):
                found["ledger"] = f"sqlite:///{path.parent / beside[1]}"
            return Configured(**found, path=path, overrides=overrides)
    told = []
    for place, words in problems.items():
        near = next(place[:n] for n in range(len(place), -1, -1) if place[:n] in reader.lines)
        key = ".".join(map(str, place)) + ": " * bool(place)
        told.append(f"{path}:{reader.lines[near]}: {key}{words}")
    raise ConfigurationError("\n".join(told))


def _merged(under: Any, over: Mapping[str, Any]) -> dict[str, Any]:
    """Two sets of keys, the second over the first, at every depth."""
    both = dict(under) if isinstance(under, Mapping) else {}
    for key, value in over.items():
        both[key] = _merged(both.get(key), value) if isinstance(value, Mapping) else value
    return both


class _Reader(yaml.SafeLoader):
    """Reads a file and replaces each `${NAME}`; knows the line of each value, and problems."""

    def __init__(self, path: Path) -> None:
        self.lines: dict[Place, int] = {(): 1}
        self.problems: dict[Place, str] = {}
        try:
            self.text = path.read_text(encoding="utf-8")
            super().__init__(self.text)
            root = self.get_single_node()
            self.document = None if root is None else self._value(root, ())
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
        except yaml.MarkedYAMLError as error:
            line = 1 if error.problem_mark is None else error.problem_mark.line + 1
            raise ConfigurationError(f"{path}:{line}: {error.problem}.") from error
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigurationError(f"{path}: it is no text: {error}.") from error

    def _value(self, node: yaml.Node, place: Place) -> Any:
        self.lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(each, (*place, n)) for n, each in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            for key, _ in node.value:
                name = (*place, str(key.value))
                if name in self.lines:  # the second would silently win
                    self.problems[name] = "it stands here a second time."
                self.lines[name] = key.start_mark.line + 1
            self.flatten_mapping(node)
            pairs = [(str(key.value), value) for key, value in node.value]
            return {name: self._value(value, (*place, name)) for name, value in pairs}
        value = self.construct_object(node)
        if not isinstance(value, str):
            return value
        for name in filter(None, _VARIABLE.findall(value)):
            if not os.environ.get(name):
                self.problems[place] = f"the environment variable {name} is not set."
        return _VARIABLE.sub(lambda m: os.environ.get(m[1], "") if m[1] else "${", value)


_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _problems(error: ValidationError, written: Any, text: str) -> dict[Place, str]:
    """What is wrong with a configuration, by place; where several kinds of values are taken, with
    what is wrong for each. A value that is not in the text, and may be a secret, is not shown."""
    found, shown = dict[Place, list[str]](), dict[Place, str]()
    for each in error.errors():
        place, given = place_in(written, each), each["input"]
        words = each["msg"].removeprefix("Value error, ").removeprefix("Input ")
        if each["type"] == "extra_forbidden":
            words = "there is no such key: docs/service.md has all"
        elif isinstance(given, str | int | float) and str(given) in text:
            shown[place] = f", not {given!r}"
        found.setdefault(place, []).append(words.partition(", unable to ")[0])
    return {place: " or ".join(words) + shown.get(place, "") for place, words in found.items()}
