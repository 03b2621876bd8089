"""The synchronous edge."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import sys
import threading
import time
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from cascade import Cascade
from cascade._portal import iterate_sync, run_sync
from cascade.models.base import guard
from cascade.testing import ScriptedModel, reply

who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


async def name() -> str:
    return who.get()


def judged(verifier: Any) -> Cascade:
    return Cascade(
        ScriptedModel([reply("Sydney", probability=0.5)]), ScriptedModel("x"), verifier=verifier
    )


def test_context_variables_travel_into_the_call() -> None:
    token = who.set("me")
    try:
        assert run_sync(name()) == "me"
        seen = []
        judged(lambda _q, _a: seen.append(who.get()) or True).invoke("?")
        assert seen == ["me"]
    finally:
        who.reset(token)


def test_context_variables_travel_into_a_stream() -> None:
    async def names() -> Any:
        yield who.get()

    token = who.set("me")
    try:
        assert list(iterate_sync(names())) == ["me"]
    finally:
        who.reset(token)


async def test_callbacks_see_the_runs_of_langchain_models(monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(BaseCallbackHandler):
        def __init__(self) -> None:
            self.models = 0

        def on_chat_model_start(self, *_: Any, **__: Any) -> None:
            self.models += 1

    monkeypatch.setattr(guard, "forbidden", False)
    cascade = Cascade(tiers=[GenericFakeChatModel(messages=iter([AIMessage("a")] * 9))])
    seen = Seen()
    assert (await cascade.ainvoke("?", {"callbacks": [seen]})).answer == "a"
    assert seen.models == 1
    cascade.invoke("?", {"callbacks": [seen]})
    assert seen.models == 2
    list(cascade.stream("?", {"callbacks": [seen]}))
    assert seen.models == 3


def test_a_synchronous_call_within_a_coroutine_of_the_cascade_is_a_clear_error() -> None:
    inner = judged(None)

    async def verifier(_question: str, _answer: str) -> bool:
        return inner.invoke("?").escalated

    with pytest.raises(RuntimeError, match="ainvoke"):
        judged(verifier).invoke("?")


def test_a_synchronous_stream_within_a_coroutine_of_the_cascade_is_a_clear_error() -> None:
    inner = judged(None)

    async def verifier(_question: str, _answer: str) -> bool:
        return bool(list(inner.stream("?")))

    with pytest.raises(RuntimeError, match="ainvoke"):
        judged(verifier).invoke("?")


def test_an_asynchronous_call_within_a_verifier_is_fine() -> None:
    inner = judged(lambda _q, _a: True)

    async def verifier(question: str, _answer: str) -> bool:
        return (await inner.ainvoke(question)).tier == "small"

    result = judged(verifier).invoke("?")
    assert result.tier == "small"
    assert len(result.ledger) == 3


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_an_exit_within_the_call_reaches_the_caller_and_the_next_call_works(
    kind: type[BaseException],
) -> None:
    async def leave() -> None:
        raise kind

    with pytest.raises(kind):
        run_sync(leave())
    assert run_sync(name()) == "nobody"


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_an_interrupt_of_the_waiting_thread_cancels_the_call() -> None:
    begun, cancelled = threading.Event(), threading.Event()
    main = threading.get_ident()

    async def endless() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def interrupt() -> None:
        assert begun.wait(30)
        while sys._current_frames()[main].f_code.co_name != "wait":
            time.sleep(0.001)
        signal.pthread_kill(main, signal.SIGINT)

    def on_signal(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            run_sync(endless())
    finally:
        signal.signal(signal.SIGINT, before)
    assert cancelled.wait(10)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_a_loop_of_its_own() -> None:
    assert run_sync(name()) == "nobody"
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if run_sync(name()) == "nobody" else 1)
        except BaseException:  # noqa: BLE001 - the child must not go on as a second test run
            os._exit(2)
    end = time.monotonic() + 20
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the child waits for a loop that is not there")
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(done[1]) == 0


def test_all_calls_share_one_thread() -> None:
    async def thread() -> int:
        return threading.get_ident()

    assert run_sync(thread()) == run_sync(thread()) != threading.get_ident()
