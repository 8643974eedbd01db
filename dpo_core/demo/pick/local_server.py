"""A web server for one person at this machine: nobody else, and no other page, is answered.

It listens on 127.0.0.1 alone. Every address begins with a random token, so that programs and pages
which were not told it find nothing. `Host` must name this machine, or a page elsewhere could have
its own name lead here (DNS rebinding); a request that another page sends is refused by `Origin`.
Only POST changes anything, and its body is JSON, which a form of another page cannot send.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import socketserver
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from ...request import MAX_BODY_BYTES, RequestRefused, read_body

ADDRESS = "127.0.0.1"
PATIENCE_SECONDS = 30.0
"""How long a connection may stay silent."""

PAGE = "pick"
"""The page's own name, so that its address needs no slash at the end."""

JSON = "application/json"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Request:
    """What a page asks.

    Attributes:
        method: GET or POST.
        path: the parts of the path after the token, decoded; empty for the page itself.
        query: what stands behind the question mark.
        body: the JSON object of a POST.
    """

    method: str
    path: tuple[str, ...]
    query: Mapping[str, str]
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What the page gets. `lasting`: the same address always has the same content."""

    content: bytes
    content_type: str = JSON
    status: int = 200
    lasting: bool = False

    @classmethod
    def of(cls, answer: Mapping[str, Any], status: int = 200) -> Reply:
        return cls(json.dumps(answer, allow_nan=False).encode(), JSON, status)


class LocalServer:
    """Answers from a thread of its own once it is started.

    Args:
        answer: a reply to each request, called from many threads; it may raise RequestRefused.
        port: where to listen; 0 takes a free one.

    Raises:
        ValueError: it cannot listen there; the message says what to do.
    """

    def __init__(self, answer: Callable[[Request], Reply], port: int = 0) -> None:
        self._token = secrets.token_urlsafe(18)
        try:
            self._server = _Server(port, answer, self._token)
        except (OSError, OverflowError) as error:
            raise ValueError(_cannot_listen(port, error)) from error
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def url(self) -> str:
        """The page's address, token included."""
        return f"http://{ADDRESS}:{self.port}/{self._token}/{PAGE}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Answers no more; what was being answered may not arrive."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # On Windows it would let another program listen at the same port.
    allow_reuse_address = os.name == "posix"

    def __init__(self, port: int, answer: Callable[[Request], Reply], token: str) -> None:
        self.answer, self.token = answer, token
        super().__init__((ADDRESS, port), _Handler)
        self.hosts = {f"{name}:{self.server_port}" for name in (ADDRESS, "localhost")}

    def server_bind(self) -> None:
        # The parent's asks the network for this machine's name, which may take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A page that was closed, or a connection that was kept and not used.
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE_SECONDS

    def do_GET(self) -> None:
        self._respond("GET")

    def do_HEAD(self) -> None:
        self._respond("GET")

    def do_POST(self) -> None:
        self._respond("POST")

    def _respond(self, method: str) -> None:
        try:
            reply = self.server.answer(self._request(method))
        except RequestRefused as refused:
            self.close_connection = True  # its body may not have been read
            reply = Reply.of(refused.answer(), refused.status)
        except OSError as error:
            self.close_connection = True
            told = f"The files could not be read or written ({error.strerror or error})."
            reply = Reply.of({"error": told, "problems": []}, 500)
        except Exception:
            self.close_connection = True
            traceback.print_exc(file=sys.stderr)
            told = "Something went wrong; the terminal says what."
            reply = Reply.of({"error": told, "problems": []}, 500)
        self._send(reply)

    def _request(self, method: str) -> Request:
        """Raises RequestRefused for whatever does not come from our own page."""
        if self.headers.get("Host") not in self.server.hosts:
            raise RequestRefused(403, f"This page is at {ADDRESS} only.")
        address = urlsplit(self.path)
        token, *path = address.path.removeprefix("/").split("/")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            raise RequestRefused(
                404, "There is no page here. Open the address that the command has printed last."
            )
        query = dict(parse_qsl(address.query))
        names = tuple(unquote(part) for part in path if part)
        if method == "GET":
            return Request(method, names, query)
        self._require_own_page()
        return Request(method, names, query, read_body(self._body()))

    def _require_own_page(self) -> None:
        origin = self.headers.get("Origin")
        site = self.headers.get("Sec-Fetch-Site", "same-origin")
        own = {f"http://{host}" for host in self.server.hosts}
        if (origin is not None and origin not in own) or site != "same-origin":
            raise RequestRefused(403, "Another page may not do this.")

    def _body(self) -> bytes:
        if self.headers.get_content_type() != JSON:
            raise RequestRefused(415, f"The request's content type must be {JSON}.")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 12):
            raise RequestRefused(411, "The request must say how long it is.")
        if int(length) > MAX_BODY_BYTES:
            raise RequestRefused(413, f"The request is larger than {MAX_BODY_BYTES // 1024} KB.")
        return self.rfile.read(int(length))

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.content)))
        lasting = "private, max-age=31536000, immutable"
        self.send_header("Cache-Control", lasting if reply.lasting else "no-store")
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Of requests that could not be read, or of other methods."""
        self.close_connection = True
        self.command = getattr(self, "command", None) or "GET"
        self._send(Reply.of(RequestRefused(code, message or "Not understood.").answer(), code))

    def version_string(self) -> str:
        return "dpo"

    def log_message(self, format: str, *args: Any) -> None:
        """The terminal is for the person."""


def _cannot_listen(port: int, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    if port:
        return f"Port {port} cannot be used ({reason}). Choose another, or leave --port out."
    return (
        f"This machine lets no page be opened at {ADDRESS} ({reason}). Allow this program to "
        "listen there, or run the demo without --pick."
    )
