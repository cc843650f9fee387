"""A local endpoint that answers as told, question by question, and keeps what it was sent."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]
"""Status, body (a text goes out as it is, all else as JSON) and headers."""


def says(text: str | None, *, finish: str = "stop", used: bool = True, **message: Any) -> Reply:
    """A chat completion with this text."""
    body: dict[str, Any] = {
        "id": "x", "object": "chat.completion", "created": 0, "model": "judge",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}],
    }  # fmt: skip
    if used:
        body["usage"] = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return 200, body


def scored(compliance: float, coherence: float) -> Reply:
    return says(json.dumps({"compliance": compliance, "coherence": coherence}))


@dataclass
class Endpoint:
    """What was sent, and what is answered: `reply` gets the question's number (from 0) and {request, answer}."""

    reply: Callable[[int, dict[str, str]], Reply]
    url: str = ""
    sent: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    delay: float = 0.0


@contextmanager
def serving(reply: Callable[[int, dict[str, str]], Reply]) -> Generator[Endpoint]:
    endpoint, lock = Endpoint(reply), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                n = len(endpoint.sent)
                endpoint.sent.append({"path": self.path, **body})
                endpoint.headers.append({k.lower(): v for k, v in self.headers.items()})
                endpoint.at_once += 1
                endpoint.most_at_once = max(endpoint.most_at_once, endpoint.at_once)
            time.sleep(endpoint.delay)
            asked = json.loads(body["messages"][0]["content"].splitlines()[-1])
            status, said, *more = endpoint.reply(n, asked)
            raw = (said if isinstance(said, str) else json.dumps(said)).encode()
            with lock:
                endpoint.at_once -= 1
            self.send_response(status)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(raw)), **dict(*more)}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(raw)
            except OSError:  # whoever asked has given up waiting
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
