"""Configuration files: what is said of each mistake, and what the environment may change."""

from __future__ import annotations

import inspect
import re
from decimal import Decimal
from pathlib import Path

import pytest

from cascade import Cascade, Queue, Shedding
from cascade.errors import ConfigurationError
from cascade.ledger.store import open_store
from cascade.privacy import looks_personal
from cascade.service.building import build_cascade
from cascade.service.config import CascadeConfig, ServiceConfig
from cascade.service.reading import masked, read_settings

GOOD = """\
ledger: sqlite:///ledger.db
cascades:
  support:
    tiers:
      - model: ollama:qwen2.5:3b
      - model: openai:gpt-5.1
        price: {input: 1.25, output: 10}
"""

GOOD_TOML = """\
ledger = "sqlite:///ledger.db"

[cascades.support]
deadline = 20

[[cascades.support.tiers]]
model = "ollama:qwen2.5:3b"

[[cascades.support.tiers]]
model = "openai:gpt-5.1"
price.input = 1.25
price.output = 10
"""

MISTAKES = {
    "an unknown key": (
        GOOD + "shutdwn_grace_s: 3\n",
        "8: shutdwn_grace_s: there is no such key; did you mean 'shutdown_grace_s'?",
    ),
    "an unknown key within": (
        GOOD + "        max_token: 3\n",
        "8: cascades.support.tiers[1].max_token: there is no such key; did you mean 'max_tokens'?",
    ),
    "an unknown key like no other": (
        GOOD + "listen:\n  xyz: 3\n",
        "9: listen.xyz: there is no such key; there are host, port",
    ),
    "a missing key": (
        "cascades:\n  support:\n    tiers:\n      - name: small\n",
        "4: cascades.support.tiers[0].model: it is missing",
    ),
    "a word for a number": (
        GOOD + "recent: many\n",
        "8: recent: should be a valid integer, unable to parse string as an integer, not 'many'",
    ),
    "a number out of range": (
        GOOD + "    deadline: -1\n",
        "8: cascades.support.deadline: should be greater than 0, not -1",
    ),
    "a wrong word": (
        GOOD + "    mode: alive\n",
        "8: cascades.support.mode: should be 'live', 'shadow' or 'canary', not 'alive'",
    ),
    "audits in two ways": (
        GOOD + "    audit_rate: 0.1\n    audits: {rate: 0.2}\n",
        "3: cascades.support: audit_rate and audits: give one",
    ),
    "two policies": (
        GOOD + "    threshold: 0.5\n    max_harm: 0.1\n",
        "3: cascades.support: max_harm and threshold: each decides alone; give one",
    ),
    "no tiers": (
        "cascades:\n  support:\n    tiers: []\n",
        "3: cascades.support.tiers: it is empty; give at least one",
    ),
    "a name that is none": (
        GOOD.replace("support", "two words"),
        "3: cascades.two words: a name has letters",
    ),
    "a key in clear text": (
        GOOD + "        api_key: sk-123\n",
        "8: cascades.support.tiers[1].api_key: a key in clear text: write api_key_env: NAME",
    ),
    "a variable that is not set": (
        GOOD + "        api_key: ${NO_SUCH_KEY}\n",
        "8: cascades.support.tiers[1].api_key: the environment variable NO_SUCH_KEY is not set",
    ),
    "no keys, and not on loopback": (
        GOOD + "auth: false\nlisten: {host: 0.0.0.0}\n",
        "c.yaml: without keys it may listen on loopback only, not on 0.0.0.0",
    ),
    "a step of the fallback that waits for a person": (
        GOOD + "    fallback: [ask, draft]\n",
        "8: cascades.support.fallback: 'ask' waits for a person, and a request has nobody to ask",
    ),
    "a key that stands twice": (
        GOOD + "recent: 3\nrecent: 4\n",
        "9: recent: it stands here a second time",
    ),
    "no YAML": (GOOD + "a: [\n", "9: "),
    "a list": ("- 1\n", "c.yaml: it needs keys"),
    "nothing": ("", "c.yaml: it needs keys"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, name: str = "c.yaml") -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_its_line_its_key_and_the_way_out(mistake: str) -> None:
    text, words = MISTAKES[mistake]
    with pytest.raises(ConfigurationError) as refused:
        read_settings(write(text), {})
    assert words in str(refused.value)
    assert str(refused.value).startswith("c.yaml")


@pytest.mark.usefixtures("folder")
def test_all_mistakes_are_told_at_once() -> None:
    text = GOOD + "recent: many\nlisten: {port: x}\n"
    with pytest.raises(ConfigurationError) as refused:
        read_settings(write(text), {})
    assert [line.split(": ")[0] for line in str(refused.value).splitlines()] == [
        "c.yaml:9",
        "c.yaml:8",
    ]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("deadline = 20", "4: cascades.support.deadline: should be greater than 0, not -1"),
        ("price.input = 1.25", "11: cascades.support.tiers[1].price.input: should be"),
        ('model = "openai:gpt-5.1"', "10: cascades.support.tiers[1].modle: there is no"),
    ],
)
def test_toml_has_lines_too(change: str, words: str) -> None:
    wrong = {"deadline": "deadline = -1", "price.input": "price.input = -1"}.get(
        change.split(" = ", maxsplit=1)[0], "modle = 1"
    )
    with pytest.raises(ConfigurationError) as refused:
        read_settings(write(GOOD_TOML.replace(change, wrong), "c.toml"), {})
    assert words in str(refused.value)


@pytest.mark.usefixtures("folder")
def test_broken_toml_is_told_with_its_line() -> None:
    with pytest.raises(ConfigurationError, match=r"^c.toml:2: "):
        read_settings(write("a = 1\nb = =\n", "c.toml"), {})


@pytest.mark.usefixtures("folder")
def test_yaml_and_toml_say_the_same() -> None:
    yaml = read_settings(write(GOOD + "    deadline: 20\n"), {}).config
    assert yaml == read_settings(write(GOOD_TOML, "c.toml"), {}).config
    price = yaml.cascades["support"].tiers[1].price
    assert price is not None
    assert price.input == Decimal("1.25")


@pytest.mark.usefixtures("folder")
def test_the_environment_goes_over_the_file_and_leaves_the_rest() -> None:
    said = {
        "CASCADE__LISTEN__PORT": "9000",
        "CASCADE__CASCADES__SUPPORT__DEADLINE": "3.5",
        "CASCADE__ALLOW_TIERS": "true",
        "CASCADE__LEDGER__TEXTS": "all",
        "OTHER": "1",
    }
    config = read_settings(write(GOOD), said).config
    assert config.listen.port == 9000
    assert config.listen.host == "127.0.0.1"
    assert config.cascades["support"].deadline == 3.5
    assert len(config.cascades["support"].tiers) == 2
    assert config.allow_tiers
    assert config.ledger is not None
    assert (config.ledger.url, config.ledger.texts) == ("sqlite:///ledger.db", "all")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("CASCADE__LISTEN__PORT", "x", "CASCADE__LISTEN__PORT: should be a valid integer"),
        ("CASCADE__LISTN__PORT", "1", "there is no key 'listn'; did you mean 'listen'?"),
        ("CASCADE__LISTEN__PROT", "1", "did you mean 'port'?"),
        ("CASCADE__CASCADES", "{", "written as JSON"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(name: str, value: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_settings(write(GOOD), {name: value})
    assert words in str(refused.value)
    assert name.rpartition("__")[0] in str(refused.value)


@pytest.mark.usefixtures("folder")
def test_a_reference_is_replaced_in_the_configuration_and_kept_in_what_is_shown() -> None:
    text = GOOD + "        api_key: ${OPENAI}\n"
    text = text.replace("sqlite:///ledger.db", "postgresql://me:hunter2@host/${DB}")
    settings = read_settings(write(text), {"OPENAI": "sk-1", "DB": "books"})
    assert settings.config.cascades["support"].tiers[1].api_key == "sk-1"
    assert settings.config.ledger is not None
    assert settings.config.ledger.url == "postgresql://me:hunter2@host/books"
    shown = str(masked(settings.written))
    assert "${OPENAI}" in shown
    assert "postgresql://me:***@host/${DB}" in shown
    assert "sk-1" not in shown + repr(settings) + repr(settings.config)


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("sqlite:///ledger.db", "sqlite:///{folder}/ledger.db"),
        ("sqlite:////var/ledger.db", "sqlite:////var/ledger.db"),
        ("postgresql://host/books", "postgresql://host/books"),
    ],
)
def test_a_ledger_lies_beside_the_configuration(tmp_path: Path, url: str, read: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(GOOD.replace("sqlite:///ledger.db", url), encoding="utf-8")
    ledger = read_settings(path, {}).config.ledger
    assert ledger is not None
    assert ledger.url == read.format(folder=tmp_path)


@pytest.mark.usefixtures("folder")
def test_a_wrong_value_from_a_variable_is_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_settings(write(GOOD + "recent: ${SECRET}\n"), {"SECRET": "hunter2"})
    assert "8: recent:" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("name", "words"),
    [("no.yaml", "cannot be read"), ("c.json", ".yaml, .yml or .toml"), ("latin.yaml", "UTF-8")],
)
def test_a_file_that_cannot_be_read_is_named(name: str, words: str) -> None:
    write("{}", "c.json")
    Path("latin.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(ConfigurationError, match=f"^{name}.*{words}"):
        read_settings(name, {})


def test_every_key_says_what_it_means() -> None:
    def silent(model: type, trail: str = "") -> list[str]:
        found = []
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            found += [] if field.description else [f"{trail}{name}"]
        return found

    from cascade.service import config  # noqa: PLC0415

    sections = [v for v in vars(config).values() if isinstance(v, type) and "Config" in v.__name__]
    sections = [section for section in sections if issubclass(section, config.Section)]
    assert ServiceConfig in sections
    assert [name for section in sections for name in silent(section, f"{section.__name__}.")] == []


def test_a_cascade_can_be_configured_in_all_that_can_be_written_down() -> None:
    code = {"verifier", "router", "tools", "cache", "retry_policy", "observers"}
    elsewhere = {"small", "large", "policy", "ledger", "name"}  # tiers, threshold, the service's
    options = set(inspect.signature(Cascade).parameters)
    assert options - set(CascadeConfig.model_fields) == code | elsewhere


def test_every_option_reaches_the_cascade(tmp_path: Path) -> None:
    price = {"input": 1, "output": 2}
    tiers = [
        {"model": "openai:s", "base_url": "http://127.0.0.1:1/v1", "api_key": "-", "name": "s",
         "price": price, "max_tokens": 50, "temperature": 0.5, "timeout_s": 9,
         "options": {"seed": 3}},
        {"model": "openai:l", "base_url": "http://127.0.0.1:1/v1", "api_key": "-", "local": False,
         "price": price},
    ]  # fmt: skip
    options = {
        "price_of_error": 0.5, "signals": ["logprobs"], "deadline": 20, "abort": True,
        "hedge": 3.0, "latch": True, "mode": "canary", "canary_share": 0.3,
        "response_format": {"type": "object"}, "tool_risks": {"pay": "irreversible"},
        "audits": {"rate": 0.2, "daily_usd": 3, "compare": "judge", "judge": tiers[1]},
        "drift": {"window": 30, "harm": "tighten"}, "local_only": False,
        "private": "looks_personal", "tags": {"app": "x"},
        "fallback": [{"model": "openai:o", "base_url": "http://127.0.0.1:1/v1", "api_key": "-"},
                     "draft", {"seconds": 9, "every": 0.5, "most": 3}, "fail"],
        "shedding": {"in_flight": 8, "gate": False, "audits": 0.5},
    }  # fmt: skip
    config = CascadeConfig.model_validate({"tiers": tiers, **options})
    cascade = build_cascade("support", config, tmp_path, open_store("memory://"), ())
    given = cascade.options
    assert [tier.name for tier in cascade.tiers] == ["s", "large"]
    small = cascade.tiers[0].settings
    assert (small.max_tokens, small.temperature, small.timeout_s) == (50, 0.5, 9)
    assert small.options == {"seed": 3}
    assert [tier.local for tier in cascade.tiers] == [True, False]
    same = options.keys() - {
        *("audits", "drift", "private", "signals", "tags", "fallback", "shedding")
    }
    assert {name: given[name] for name in same} == {name: options[name] for name in same}
    assert (given["audit_rate"].rate, given["audit_rate"].compare) == (0.2, "judge")
    assert given["audit_rate"].judge.model == "openai:l"
    assert (given["drift"].window, given["drift"].harm) == (30, "tighten")
    assert given["private"] is looks_personal
    assert given["tags"] == {"cascade": "support", "app": "x"}
    assert cascade.mode == "canary"
    assert [getattr(step, "model", step) for step in given["fallback"]] == [
        "openai:o",
        "draft",
        Queue(seconds=9, every=0.5, most=3),
        "fail",
    ]
    assert given["shedding"] == Shedding(in_flight=8, audits=0.5)


def test_reuse_is_a_word_or_a_file_beside_the_configuration(tmp_path: Path) -> None:
    tiers = [{"model": "ollama:s"}, {"model": "ollama:l"}]
    for reuse, words in (("correct", None), ("plan.json", str(tmp_path / "plan.json"))):
        config = CascadeConfig.model_validate({"tiers": tiers, "reuse": reuse})
        if words is None:
            assert build_cascade("a", config, tmp_path, None, ()).options["reuse"] == "correct"
        else:
            with pytest.raises(ConfigurationError, match=re.escape(words)):
                build_cascade("a", config, tmp_path, None, ())
