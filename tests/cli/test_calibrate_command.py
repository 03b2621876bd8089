"""`cascade calibrate`: what it asks, spends, writes, promises, and does after an interrupt."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cascade import Cascade, Tier
from cascade.cli import calibrate as command
from cascade.errors import CalibrationMismatchError, ContextLengthError
from cascade.evaluation.transcripts import read_transcripts
from cascade.models import Request
from cascade.models.llamacpp import find_weights
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply
from tests.cli.conftest import Models, Run
from tests.servers import replies
from tests.servers.fake import FakeServer

SMALL, LARGE = "scripted:s", "scripted:l"


def number(text: str) -> int:
    return int(text.split()[1].rstrip("?"))


def drafts(request: Request) -> Completion:
    """Two of three right, and mostly surer of those."""
    i = number(request.messages[-1].text)
    right = i % 3 != 0
    return reply(f"city {i if right else 'none'}", probability=0.75 + 0.2 * right - i % 5 * 0.05)


def knows(request: Request) -> Completion:
    return reply(f"city {number(request.messages[-1].text)}")


@pytest.fixture
def pair(models: Models) -> Models:
    models[SMALL] = ScriptedModel(drafts, name="s", returns_logprobs=True)
    models[LARGE] = ScriptedModel(knows, name="l")
    return models


def requests(models: Models, spec: str) -> list[Request]:
    model = models[spec]
    assert isinstance(model, ScriptedModel)
    return model.requests


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    return write(tmp_path, 60)


def write(folder: Path, n: int, **row: Any) -> Path:
    path = folder / "examples.jsonl"
    rows = [{"question": f"Capital {i}?", "reference": f"city {i}", **row} for i in range(n)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture
def arguments(examples: Path) -> list[object]:
    out = examples.parent / "calibration.json"
    return ["calibrate", examples, "--small", SMALL, "--large", LARGE, "--out", out]


def test_examples_become_a_calibration_that_a_cascade_takes(
    run: Run, pair: Models, arguments: list[object]
) -> None:
    result = run(*arguments)
    out = arguments[-1]
    assert f"{out}: 60 labelled drafts, 66.7% of them right" in result.stdout
    assert "the large model is right on 100.0%" in result.stdout
    assert "AUROC of correctness" in result.stdout
    assert f"calibrator='{out}'" in result.stdout
    assert "60 examples to be asked of both models: small has no price set" in result.stderr
    assert "spent on the examples: $0.0000, and more that has no price" in result.stderr
    answer = Cascade(pair[SMALL], pair[LARGE], calibrator=str(out)).invoke("Capital 7?")
    assert answer.calibrated
    assert answer.confidence is not None


def test_the_calibration_is_refused_for_anything_else(
    run: Run, pair: Models, arguments: list[object]
) -> None:
    run(*arguments)
    out = str(arguments[-1])
    for cascade in (
        lambda: Cascade(ScriptedModel("x", name="other"), pair[LARGE], calibrator=out),
        lambda: Cascade(pair[SMALL], ScriptedModel("x", name="other"), calibrator=out),
        lambda: Cascade(Tier(pair[SMALL], max_tokens=5), pair[LARGE], calibrator=out),
    ):
        with pytest.raises(CalibrationMismatchError, match="calibrate again"):
            cascade()
    spoken = [("system", "Be rude."), ("human", "Capital 7?")]
    result = Cascade(pair[SMALL], pair[LARGE], calibrator=out).invoke(spoken)
    assert (result.tier, result.confidence) == ("large", None)
    assert "another system message" in result.decision.reason


def test_json_is_one_document(run: Run, pair: Models, arguments: list[object]) -> None:
    document = json.loads(run(*arguments, "--json").stdout)
    assert document["quality"]["n"] == 60
    assert document["collected"]["written"] == 60
    assert document["collected"]["cost_usd"] == "0"
    assert document["refusals"] == []
    assert set(document["signals"]) == {"logprobs", "text", "prompt"}


def test_a_second_run_asks_nobody_again(run: Run, pair: Models, arguments: list[object]) -> None:
    run(*arguments)
    again = run(*arguments)
    assert len(requests(pair, SMALL)) == len(requests(pair, LARGE)) == 60
    assert "to be asked" not in again.stderr
    assert "spent" not in again.stderr


def test_recorded_transcripts_need_no_model(
    run: Run, pair: Models, arguments: list[object], tmp_path: Path
) -> None:
    run(*arguments)
    live = json.loads((tmp_path / "calibration.json").read_text())
    work = tmp_path / "calibration.jsonl"
    other = tmp_path / "again.json"
    models = ["--small", SMALL, "--large", LARGE]
    document = json.loads(
        run("calibrate", work, "--recorded", *models, "--out", other, "--json").stdout
    )
    assert document["collected"] is None
    assert len(requests(pair, LARGE)) == 60
    recorded = json.loads(other.read_text())
    assert recorded["system_hash"] == live["system_hash"] is not None
    assert recorded["quality"] == live["quality"]


def test_a_bound_that_can_be_proved_is_certified(run: Run, pair: Models, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    models = ["--small", SMALL, "--large", LARGE, "--out", out]
    result = run("calibrate", write(tmp_path, 120), *models, "--max-harm", 0.3)
    assert "certified: P(accepted and wrong) ≤ 30.0% with 90% confidence" in result.stdout
    cascade = Cascade(pair[SMALL], pair[LARGE], calibrator=out, max_harm=0.3)
    assert cascade.invoke("Capital 7?").calibrated


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_bound_that_cannot_be_proved_is_refused_and_fails(
    run: Run, pair: Models, arguments: list[object], flags: list[str]
) -> None:
    result = run(*arguments, "--max-harm", 0.001, *flags, code=1)
    assert "no certificate could be given; the calibration was written all the same" in (
        result.stderr
    )
    if flags:
        (refusal,) = json.loads(result.stdout)["refusals"]
    else:
        refusal = result.stdout
        assert "not certified:" in refusal
    assert "label" in refusal
    assert Path(str(arguments[-1])).exists()


def test_agreement_with_the_large_model_needs_no_references(
    run: Run, pair: Models, tmp_path: Path
) -> None:
    out = tmp_path / "c.json"
    examples = write(tmp_path, 40, reference=None)
    options = ["--small", SMALL, "--large", LARGE, "--out", out]
    left_out = run("calibrate", examples, *options, code=2)
    assert "examples left out, since nobody knows the answer: 40" in left_out.stderr
    assert requests(pair, SMALL) == []
    run("calibrate", examples, *options, "--agree-with-large")
    made = json.loads(out.read_text())
    assert made["labels"] == "agreement with the large model"
    assert made["quality"]["accuracy_large"] == 1


@pytest.mark.parametrize(
    ("examples", "flags", "needed"),
    [(19, [], "20 or more"), (39, ["--max-harm", 0.3], "40 or more")],
)
def test_too_few_examples_are_refused_before_anything_is_asked(
    run: Run, pair: Models, tmp_path: Path, examples: int, flags: list[object], needed: str
) -> None:
    options = ["--small", SMALL, "--large", LARGE, "--out", tmp_path / "c.json", *flags]
    result = run("calibrate", write(tmp_path, examples), *options, code=2)
    assert f"{examples} examples, where {needed} are needed" in result.stderr
    assert requests(pair, SMALL) == []


def test_failures_are_named_and_tried_again(
    run: Run, pair: Models, arguments: list[object]
) -> None:
    def sometimes(request: Request) -> Completion | Exception:
        if number(request.messages[-1].text) < 7:
            return ContextLengthError("does [not] fit", model="s")
        return drafts(request)

    pair[SMALL] = ScriptedModel(sometimes, name="s", returns_logprobs=True)
    result = run(*arguments)
    assert "example 1 failed: the small model gave no draft" in result.stderr
    assert "does [not] fit" in result.stderr
    assert "failed examples: 7; the next run tries them again" in result.stderr
    pair[SMALL] = ScriptedModel(drafts, name="s", returns_logprobs=True)
    assert "60 labelled drafts" in run(*arguments).stdout
    assert len(requests(pair, SMALL)) == 7


def hosted(models: Models) -> str:
    spec = "openai:gpt-5.1"
    model = ScriptedModel(knows, name="gpt-5.1", local=False)
    model.provider = "openai"
    models[spec] = model
    return spec


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_hosted_model_is_not_paid_without_a_word_of_the_user(
    run: Run, pair: Models, arguments: list[object], flags: list[str]
) -> None:
    spec = hosted(pair)
    arguments[5] = spec
    result = run(*arguments, *flags, code=2)
    assert "large about $0.1" in result.stderr
    assert "say --yes" in result.stderr
    assert requests(pair, SMALL) == requests(pair, spec) == []
    assert "60 labelled" in run(*arguments, "--yes").stdout


@pytest.mark.parametrize(("typed", "code", "asked"), [("y\n", 0, 60), ("n\n", 1, 0)])
def test_at_a_terminal_it_asks_before_it_spends(
    run: Run,
    pair: Models,
    arguments: list[object],
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    code: int,
    asked: int,
) -> None:
    monkeypatch.setattr(command, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    arguments[5] = spec = hosted(pair)
    run(*arguments, code=code, input=typed)
    assert len(requests(pair, spec)) == asked


def test_a_hosted_judge_is_asked_about_too(
    run: Run, pair: Models, arguments: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    result = run(*arguments, "--scorer", "judge:openai:gpt-5.1", code=2)
    assert "the judge openai:gpt-5.1 comes on top" in result.stderr
    assert "say --yes" in result.stderr


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--max-harm", 1.5], "--max-harm 1.5: a probability"),
        (["--delta", 0], "--delta 0"),
        (["--scorer", "luck"], "there is no scorer 'luck'"),
        (["--signals", "luck"], "no signal 'luck'"),
        (["--concurrency", 0], "concurrency=0"),
        (["--out", "/no/such/folder/c.json"], "--out /no/such/folder/c.json"),
        (["--out", "/"], "--out /"),
        (["--max-tokens", 0], "max_tokens=0"),
        (["--temperature", -1], "temperature=-1"),
        (["--work", "x.jsonl.gz"], "gzip"),
    ],
)
def test_wrong_usage_is_found_before_anything_is_asked(
    run: Run, pair: Models, arguments: list[object], options: list[object], complaint: str
) -> None:
    result = run(*arguments, *options, code=2)
    assert complaint in result.stderr
    assert requests(pair, SMALL) == []


def test_a_bad_line_of_the_examples_is_named(
    run: Run, pair: Models, arguments: list[object]
) -> None:
    path = Path(str(arguments[1]))
    path.write_text(path.read_text() + "\n{bad")
    assert f"{path}:61: " in run(*arguments, code=2).stderr


def test_without_the_extra_it_says_what_to_install(
    run: Run, pair: Models, arguments: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert 'pip install "agent-cascade[calibrate]"' in run(*arguments, code=2).stderr


def test_the_example_of_the_help_is_one_that_parses(run: Run) -> None:
    words = shlex.split(command.EXAMPLE.removeprefix("Example: cascade "))
    assert "OPENAI_API_KEY" in run(*words, code=2).stderr
    assert "Example: cascade calibrate" in " ".join(run("calibrate", "--help").stdout.split())


# After an interrupt


def answering(body: Mapping[str, Any]) -> replies.Reply:
    """An Ollama server that takes its time."""
    if "messages" not in body:
        return replies.ollama_show(body) if "model" in body else replies.ollama_tags(body)
    i = number(body["messages"][-1]["content"])
    token = {"token": f"city {i}", "logprob": -0.1 * (i % 3)}
    text = f"city {'none' if body['model'] == 'small' and i % 3 == 2 else i}"
    return replies.ollama_reply(text, logprobs=[token], delay_s=0.03)


def test_killed_and_run_again_nothing_is_paid_twice(tmp_path: Path) -> None:
    n, concurrency = 60, 4
    path, work = write(tmp_path, n), tmp_path / "c.jsonl"
    with FakeServer() as server:
        server.will(*[answering] * (8 * n))
        call = [sys.executable, "-c", "from cascade.cli import main; main()", "calibrate", path]
        call += ["--small", "ollama:small", "--large", "ollama:large", "--out", tmp_path / "c.json"]
        call += ["--concurrency", str(concurrency)]
        environment = {**os.environ, "OLLAMA_HOST": server.url}
        first = subprocess.Popen(call, env=environment, stderr=subprocess.PIPE)
        for _ in range(1500):
            if work.exists() and work.read_bytes().count(b"\n") > n // 4:
                break
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        assert first.returncode == -signal.SIGKILL
        kept = {row.prompt for row in read_transcripts(work)}
        assert n // 4 < len(kept) < n
        done = subprocess.run(
            call, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert f"{len(kept)} are in {work} already" in done.stderr
        asked = Counter(
            (chat.body["model"], chat.body["messages"][-1]["content"])
            for chat in server.received
            if chat.path == "/api/chat"
        )
    assert len(asked) == 2 * n
    twice = {question for (_, question), times in asked.items() if times > 1}
    assert twice.isdisjoint(kept)
    assert len(twice) <= concurrency
    assert max(asked.values()) <= 2


# With a real model


@pytest.mark.live
def test_a_small_run_with_the_embedded_model(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    small, out = "llamacpp:smollm2-135m", tmp_path / "c.json"
    large = f"llamacpp:{find_weights('smollm2-135m')}"
    path = tmp_path / "examples.jsonl"
    rows = [
        {"question": f"Is {i} an even number? Answer yes or no.", "reference": yes}
        for i in range(24)
        for yes in ["yes" if i % 2 == 0 else "no"]
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    options = ["--small", small, "--large", large, "--max-tokens", 4, "--temperature", 0]
    result = run("calibrate", path, *options, "--scorer", "contains", "--out", out)
    assert "24 labelled drafts" in result.stdout
    settings = {"max_tokens": 4, "temperature": 0}
    tiers = [Tier(small, **settings), Tier(large, **settings)]
    made = json.loads(out.read_text())
    assert made["small"]["digest"] == made["large"]["digest"] is not None
    answer = Cascade(*tiers, calibrator=out).invoke(str(rows[3]["question"]))
    assert answer.calibrated
    assert 0 <= (answer.confidence or -1) <= 1
