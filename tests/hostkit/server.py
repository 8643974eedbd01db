"""A real ComfyUI process with this pack installed, driven over HTTP and its websocket."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from hostkit.checkout import PACK_ROOT
from hostkit.workflows import Prompt, node

_TEXT = 3
"""The binary websocket message that holds a line for a node."""
_PICTURES = (1, 4)
"""Those that hold a picture: bare, and with the node it belongs to."""

# What a published pack leaves out, and what no copy should carry along.
_NOT_INSTALLED = shutil.ignore_patterns(
    ".git*", "tests", "benchmarks", "__pycache__", ".*_cache", "*.egg-info", "node_modules", ".venv"
)


class PromptRejected(RuntimeError):
    """`/prompt` refused the prompt; `reply` is its JSON: `error` and `node_errors`."""

    def __init__(self, reply: Mapping[str, Any]) -> None:
        super().__init__(json.dumps(reply, indent=1))
        self.reply = reply


@dataclass(frozen=True)
class Reply:
    """An HTTP reply."""

    status: int
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class RunResult:
    """What became of one queued prompt."""

    prompt_id: str
    status: str
    """success, error or interrupted."""
    outputs: dict[str, Any]
    """Node id -> its `ui` value: {"images": [...], ...}."""
    messages: list[list[Any]]
    """The history's [name, data] pairs: execution_start, execution_cached, ..."""
    events: list[dict[str, Any]] = field(repr=False)
    """The websocket's messages during the run, in order: {"type": ..., "data": {...}}."""

    def message(self, name: str) -> dict[str, Any] | None:
        """The data of the first history message of that name."""
        return next((data for kind, data in self.messages if kind == name), None)

    @property
    def error(self) -> str:
        """The exception's message, empty if there was none."""
        data = self.message("execution_error")
        return str(data["exception_message"]) if data else ""

    @property
    def executed(self) -> list[str]:
        """Ids of the nodes that ran, in order; nodes taken from the cache are not among them."""
        nodes = (e["data"].get("node") for e in self.events if e["type"] == "executing")
        return [node for node in nodes if node is not None]


class ComfyServer:
    """ComfyUI started with `--cpu` on a free port, with a base directory of its own.

    `base_dir` receives models, input, output, user and custom_nodes; this pack is copied into
    `custom_nodes/<pack_dir_name>`, without what a published pack leaves out. A context manager:
    the process ends with the block. Raises RuntimeError with the end of the log if it does not
    come up within `start_timeout` seconds.
    """

    def __init__(
        self,
        checkout: Path,
        base_dir: Path,
        pack_dir_name: str | None = "comfyui-dpo-test",
        arguments: Sequence[str] = (),
        start_timeout: float = 180,
    ) -> None:
        self.checkout = checkout
        self.base_dir = base_dir
        self.log_file = base_dir / "server.log"
        self.client_id = uuid.uuid4().hex
        self._arguments = arguments
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: _Listener | None = None
        for name in ("custom_nodes", "input", "output", "models/checkpoints", "models/loras"):
            (base_dir / name).mkdir(parents=True, exist_ok=True)
        if pack_dir_name is not None:
            self.pack_dir = base_dir / "custom_nodes" / pack_dir_name
            shutil.copytree(PACK_ROOT, self.pack_dir, ignore=_NOT_INSTALLED)

    def __enter__(self) -> ComfyServer:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self, port: int | None = None) -> None:
        """Start the process and wait until it answers; also after `stop`, on the same folders.

        On a free port, unless one is given.
        """
        self.port = _free_port() if port is None else port
        command = [
            sys.executable,
            str(self.checkout / "main.py"),
            "--cpu",
            *("--base-directory", str(self.base_dir)),
            *("--port", str(self.port)),
            *("--database-url", "sqlite:///:memory:"),
            "--disable-auto-launch",
            "--disable-api-nodes",
            *self._arguments,
        ]
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.base_dir,
                # Two threads of OpenMP on busy cores wait for each other more than they compute.
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_up()
            self._listener = _Listener(f"{self.url}/ws?clientId={self.client_id}")
        except BaseException:
            self.stop()
            raise

    def leave(self) -> None:
        """Close the page's connection; :meth:`come_back` opens it again."""
        assert self._listener is not None
        self._listener.close()

    def come_back(self) -> None:
        """As a page that is loaded again, with the same client id; earlier messages are gone."""
        self._listener = _Listener(f"{self.url}/ws?clientId={self.client_id}")

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + self._start_timeout
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                break
            try:
                if self.get("/system_stats").status == 200:
                    return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError(f"ComfyUI did not come up:\n{self.log()[-4000:]}")

    def stop(self) -> None:
        """End the process as Ctrl-C does, by force after 20 s."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def process_id(self) -> int | None:
        """None while the server is stopped."""
        return None if self._process is None else self._process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        """Everything the process has printed so far."""
        return self.log_file.read_text(errors="replace")

    def pack_failed(self) -> bool:
        """Whether ComfyUI could not import the pack; the log then holds the traceback."""
        return f"(IMPORT FAILED): {self.pack_dir}" in self.log()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        """GET `path` ("/dpo/..."); HTTP errors are returned, not raised."""
        return self._request(path, None, headers)

    def post(
        self, path: str, value: Any = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """POST `value` as JSON; HTTP errors are returned, not raised."""
        return self._request(path, json.dumps(value).encode(), headers)

    def _request(self, path: str, body: bytes | None, headers: Mapping[str, str] | None) -> Reply:
        request = urllib.request.Request(self.url + path, data=body)
        request.add_header("Content-Type", "application/json")
        for name, value in (headers or {}).items():
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return Reply(reply.status, reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, error.read())

    def object_info(self, node: str) -> dict[str, Any]:
        """The schema the front end sees for one node class; KeyError if it is not registered."""
        return self.get(f"/object_info/{urllib.parse.quote(node)}").json()[node]

    def submit(self, prompt: Prompt, extra_data: Mapping[str, Any] | None = None) -> str:
        """Queue a prompt; returns its id. Raises PromptRejected."""
        reply = self.post(
            "/prompt",
            {"prompt": prompt, "client_id": self.client_id, "extra_data": dict(extra_data or {})},
        )
        if reply.status != 200:
            raise PromptRejected(reply.json())
        return str(reply.json()["prompt_id"])

    def wait(self, prompt_id: str, timeout: float = 120, heard: bool = True) -> RunResult:
        """Wait until a submitted prompt has ended. Raises TimeoutError with the end of the log.

        Not `heard`: its messages go to another page or to none, so the result has no events.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            entry = self.get(f"/history/{prompt_id}").json().get(prompt_id)
            if entry is not None:
                return self._result(prompt_id, entry, self.events(prompt_id) if heard else [])
            time.sleep(0.05)
        raise TimeoutError(f"{prompt_id} did not end in {timeout} s:\n{self.log()[-4000:]}")

    def queue(
        self, prompt: Prompt, timeout: float = 120, extra_data: Mapping[str, Any] | None = None
    ) -> RunResult:
        """Queue a prompt and wait for its end; an error in a node is a result, not an exception."""
        return self.wait(self.submit(prompt, extra_data), timeout)

    def _result(
        self, prompt_id: str, entry: Mapping[str, Any], events: list[dict[str, Any]]
    ) -> RunResult:
        messages = entry["status"]["messages"]
        status = entry["status"]["status_str"]
        if any(name == "execution_interrupted" for name, _ in messages):
            status = "interrupted"
        return RunResult(prompt_id, status, entry["outputs"], messages, events)

    def events(self, prompt_id: str | None = None) -> list[dict[str, Any]]:
        """The websocket's JSON messages so far, or those that carry this prompt's id."""
        assert self._listener is not None
        if prompt_id is not None:
            self._listener.wait_for_end(prompt_id)
        return [
            event
            for event in list(self._listener.events)
            if prompt_id is None or (event.get("data") or {}).get("prompt_id") == prompt_id
        ]

    def wait_for_event(self, kind: str, timeout: float = 60, **data: Any) -> dict[str, Any]:
        """The first websocket message of a type whose data holds `data`, awaited if need be."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for event in self.events():
                if event["type"] == kind and data.items() <= (event.get("data") or {}).items():
                    return event
            time.sleep(0.02)
        raise TimeoutError(f"no {kind} event with {data} in {timeout} s:\n{self.log()[-4000:]}")

    def interrupt(self) -> None:
        """What the Stop button does."""
        assert self.post("/interrupt", {}).status == 200

    def free(self) -> None:
        """Unload all models and forget all cached outputs, as the front end's button does."""
        assert self.post("/free", {"unload_models": True, "free_memory": True}).status == 200
        # It happens when the worker has ended a prompt, and before it takes the next one.
        pixel = node("EmptyImage", width=1, height=1, batch_size=1, color=0)
        self.queue({"image": pixel, "preview": node("PreviewImage", images=["image", 0])})

    def texts(self, node_id: str) -> list[str]:
        """The lines shown on a node so far, over all prompts."""
        assert self._listener is not None
        found = []
        for message in list(self._listener.previews):
            kind, length = struct.unpack_from(">II", message)
            if kind == _TEXT and message[8 : 8 + length].decode() == node_id:
                found.append(message[8 + length :].decode())
        return found

    def pictures_sent(self) -> int:
        """How many pictures the page was shown while nodes ran, over all prompts."""
        assert self._listener is not None
        kinds = [int.from_bytes(message[:4], "big") for message in list(self._listener.previews)]
        return sum(kind in _PICTURES for kind in kinds)

    def image(self, record: Mapping[str, str]) -> bytes:
        """The file behind one entry of an `images` output."""
        reply = self.get("/view?" + urllib.parse.urlencode(record))
        assert reply.status == 200, record
        return reply.body


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Listener:
    """Keeps a tab's websocket open in a thread and collects what arrives."""

    def __init__(self, url: str) -> None:
        self.events: list[dict[str, Any]] = []
        self.previews: list[bytes] = []
        """Binary messages, as they came: a type number and an image."""
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(url,), daemon=True)
        self._thread.start()
        if not self._ready.wait(30):
            raise RuntimeError("ComfyUI's websocket did not open")

    def _run(self, url: str) -> None:
        self._task = self._loop.create_task(self._listen(url))
        try:
            self._loop.run_until_complete(self._task)
        except (asyncio.CancelledError, aiohttp.ClientError):
            pass
        finally:
            self._loop.close()

    async def _listen(self, url: str) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url, max_msg_size=0) as socket_,
        ):
            self._ready.set()
            async for message in socket_:
                if message.type == aiohttp.WSMsgType.TEXT:
                    self.events.append(json.loads(message.data))
                elif message.type == aiohttp.WSMsgType.BINARY:
                    self.previews.append(message.data)

    def wait_for_end(self, prompt_id: str, timeout: float = 5) -> None:
        """Wait for the message that closes a run: the history may know of the end before it."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and not self._loop.is_closed():
            for event in list(self.events):
                data = event.get("data") or {}
                ended = event["type"] == "executing" and data.get("node") is None
                if ended and data.get("prompt_id") == prompt_id:
                    return
            time.sleep(0.02)

    def close(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(10)
