from __future__ import annotations

import json
import shlex
from decimal import Decimal

import pytest
import typer
from typer.testing import CliRunner

from cascade.cli import plan

APP = typer.Typer()
APP.command(epilog=plan.EXAMPLE)(plan.plan)
BASE = "--input-tokens 1000 --output-tokens 500"


def run(arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(APP, shlex.split(arguments))
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_the_example_runs() -> None:
    said = run(plan.EXAMPLE.removeprefix("Example: cascade plan "))
    assert said.startswith("It saves ")


def test_list_prices_come_by_model_string() -> None:
    said = run(f"{BASE} --small openai:gpt-4o-mini --large openai:gpt-5.1")
    assert "It saves from an accept rate of" in said
    assert "list price, genai-prices" in said


def test_json_holds_the_verdict_and_the_figures() -> None:
    document = json.loads(
        run(f"{BASE} --small-price 1,2 --large-price 10,20 --accept 0.6 --accept-n 100 --json")
    )
    assert document["verdict"] == "saves"
    assert document["summary"].startswith("It saves $10.00")
    assert float(document["cost_ratio"]) == 0.1
    assert Decimal(document["saved_per_1000_usd"]["value"]) == 10
    assert document["inputs"]["accept_n"] == 100


def test_token_price_and_machine_add_up() -> None:
    prices = "--small-price 0,0 --hourly 3.6 --busy-s 2 --large-price 10,20"
    assert json.loads(run(f"{BASE} {prices} --json"))["draft_usd"] == "0.002"


def test_power_alone_prices_a_local_model() -> None:
    prices = "--small ollama:qwen2.5:3b --kw 0.36 --kwh-price 0.5 --busy-s 2 --large-price 10,20"
    assert json.loads(run(f"{BASE} {prices} --json"))["draft_usd"] == "0.0001"


def test_owning_is_set_against_the_bill() -> None:
    owning = "--purchase 3600 --maintenance-hours 1 --hour-price 50 --standby-kw 0.1"
    said = run(
        f"{BASE} --small-price 1,2 --large-price 10,20 --accept 0.6 --requests 100000 "
        f"{owning} --kwh-price 0.4"
    )
    assert "saves from 17,920 requests a month on" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--large-price 10,20", "the small model has no price"),
        ("--small-price 1,2", "the large model has no price"),
        ("--small ollama:qwen2.5:3b --large-price 1,2", "no list price of ollama:qwen2.5:3b"),
        ("--small-price 1,2 --large openai:no-such", "no list price of openai:no-such"),
        ("--small gpt --large-price 1,2", "'gpt' is no model string"),
        ("--small openai:gpt-5.1 --hourly 1 --large-price 1,2", "is hosted"),
        ("--small-price 1 --large-price 1,2", "--small-price '1': write two prices"),
        ("--small-price 1,x --large-price 1,2", "--small-price '1,x': write two prices"),
        ("--small-price=-1,2 --large-price 1,2", "Price(input=Decimal('-1'))"),
        ("--small-price 1,2 --large-price 1,2 --kwh-price 1", "--kwh-price 1 prices nothing"),
        ("--utilisation 0.5 --large-price 1,2", "utilisation=0.5 divides"),
        ("--small-price 1,2 --large-price 1,2 --accept 7", "accept_rate=7"),
        ("--small-price 1,2 --large-price 1,2 --accept much", "'much' is not a number"),
    ],
)
def test_a_wrong_use_is_named(arguments: str, message: str) -> None:
    said = run(f"{BASE} {arguments}", code=2).replace("│ ", "")
    assert message in said
