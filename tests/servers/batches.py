"""A fake server that has OpenAI's batch API: files, batches and their results, with faults."""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

from tests.acceptance.upstream import Upstream
from tests.servers import replies
from tests.servers.fake import Handler

Step = Literal["upload", "files", "create", "batches", "retrieve", "content"]
"""What a client may ask for."""

Fault = Literal["drop_before", "drop_after", "busy", "refuse"]
"""Before: nothing has come about. After: it has, and nobody was told."""

Outcome = Mapping[str, Any] | int | str | None
"""The body of a good reply, the status of a bad one, a code of an error, or nothing at all."""


@dataclass
class Remote:
    """A batch as the server keeps it."""

    id: str
    input_file_id: str
    metadata: Mapping[str, str]
    lines: list[dict[str, Any]]
    looks: int = 0
    """How often it was asked for."""
    status: str = "in_progress"
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int = field(default_factory=lambda: int(time.time()))


def usual(body: Mapping[str, Any]) -> Outcome:
    """What a request is answered where a test says nothing."""
    return replies.openai_body(f"{body['model']} on {body['messages'][-1]['content']}")


class BatchServer(Upstream):
    """Chat completions, and the same by batch."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, tuple[str, bytes]] = {}
        """Content by id, with its name: what was uploaded and what was made of it."""
        self.remote: dict[str, Remote] = {}
        self.steps: Counter[str] = Counter()
        """How often each step was asked for."""
        self.answer: Callable[[Mapping[str, Any]], Outcome] = usual
        """What a request in a batch comes to."""
        self.ends = "completed"
        self.looks = 1
        """So often it is under way when it is looked at."""
        self._faults: dict[str, deque[Fault]] = {}

    def fails(self, step: Step, *faults: Fault) -> None:
        """Say what goes wrong with the next requests for a step."""
        self._faults.setdefault(step, deque()).extend(faults)

    def mend(self) -> None:
        """Let nothing go wrong any more."""
        self._faults.clear()

    @property
    def batched(self) -> Counter[str]:
        """How often each question stands in a batch that was created."""
        lines = (line for batch in self.remote.values() for line in batch.lines)
        return Counter(line["body"]["messages"][-1]["content"] for line in lines)

    def routes(self) -> Mapping[str, Handler]:
        return {
            "POST /v1/files": self._at("upload", self._upload),
            "GET /v1/files": self._at("files", self._list_files),
            "GET /v1/files/{id}/content": self._at("content", self._content),
            "POST /v1/batches": self._at("create", self._create),
            "GET /v1/batches": self._at("batches", self._list_batches),
            "GET /v1/batches/{id}": self._at("retrieve", self._retrieve),
            **super().routes(),
        }

    def _at(self, step: Step, handle: Callable[[web.Request], Any]) -> Any:
        async def handler(request: web.Request) -> web.StreamResponse:
            self.steps[step] += 1
            waiting = self._faults.get(step)
            fault = waiting.popleft() if waiting else None
            if fault == "busy":
                return web.json_response({"error": {"message": "busy"}}, status=503)
            if fault == "refuse":
                return web.json_response({"error": {"message": "billing limit"}}, status=400)
            reply = web.Response() if fault == "drop_before" else await handle(request)
            if fault is not None:
                request.transport.abort()
            return reply

        return handler

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        part = form["file"]
        assert isinstance(part, web.FileField), "a file is sent as one"
        assert form["purpose"] == "batch"
        return web.json_response(self._file(self._keep(part.filename, part.file.read())))

    def _keep(self, name: str, content: bytes) -> str:
        file_id = f"file-{len(self.files)}"
        self.files[file_id] = (name, content)
        return file_id

    def _file(self, file_id: str) -> dict[str, Any]:
        name, content = self.files[file_id]
        told = {"id": file_id, "filename": name, "bytes": len(content)}
        of_all = {"object": "file", "purpose": "batch", "status": "processed"}
        return {**told, **of_all, "created_at": int(time.time())}

    async def _list_files(self, request: web.Request) -> web.Response:
        return _page(request, [self._file(file_id) for file_id in self.files])

    async def _content(self, request: web.Request) -> web.Response:
        return web.Response(body=self.files[request.match_info["id"]][1])

    async def _create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        assert asked["endpoint"] == "/v1/chat/completions"
        assert asked["completion_window"] == "24h"
        content = self.files[asked["input_file_id"]][1]
        lines = [json.loads(line) for line in content.splitlines()]
        batch_id = f"batch_{len(self.remote)}"
        batch = Remote(batch_id, asked["input_file_id"], asked.get("metadata") or {}, lines)
        self.remote[batch_id] = batch
        assert len({line["custom_id"] for line in lines}) == len(lines), "an id is there once"
        return web.json_response(self._batch(batch))

    async def _list_batches(self, request: web.Request) -> web.Response:
        newest_first = [self._batch(batch) for batch in reversed(self.remote.values())]
        return _page(request, newest_first)

    async def _retrieve(self, request: web.Request) -> web.Response:
        batch = self.remote[request.match_info["id"]]
        batch.looks += 1
        if batch.status == "in_progress" and batch.looks > self.looks:
            self._end(batch)
        return web.json_response(self._batch(batch))

    def _end(self, batch: Remote) -> None:
        batch.status = self.ends
        output, error = [], []
        for line in reversed(batch.lines):  # their order is nobody's business
            outcome = self.answer(line["body"])
            if outcome is None:
                continue
            row = {"id": f"r-{line['custom_id']}", "custom_id": line["custom_id"]}
            row |= {"response": None, "error": None}
            if isinstance(outcome, str):
                row["error"] = {"code": outcome, "message": f"{outcome} of this request"}
            else:
                status = outcome if isinstance(outcome, int) else 200
                body = outcome if status == 200 else {"error": {"message": f"status {status}"}}
                row["response"] = {"status_code": status, "request_id": "q", "body": body}
            (error if isinstance(outcome, str | int) else output).append(row)
        batch.output_file_id = self._keep("output.jsonl", _lines(output)) if output else None
        batch.error_file_id = self._keep("error.jsonl", _lines(error)) if error else None

    def _batch(self, batch: Remote) -> dict[str, Any]:
        told = {
            name: value for name, value in vars(batch).items() if name not in ("lines", "looks")
        }
        told |= {"object": "batch", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        ended = batch.created_at + 60 if batch.status != "in_progress" else None
        return {**told, "expires_at": batch.created_at + 86_400, "completed_at": ended}


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _page(request: web.Request, items: list[dict[str, Any]]) -> web.Response:
    """Two at a time, so that whoever looks for one has to turn pages."""
    after = request.query.get("after")
    ids = [item["id"] for item in items]
    start = 0 if after is None else ids.index(after) + 1
    page = items[start : start + 2]
    more = start + 2 < len(items)
    return web.json_response({"object": "list", "data": page, "has_more": more})
