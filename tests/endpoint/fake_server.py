"""A chat server on 127.0.0.1 for tests: answers come from a function of (request body, how often it was asked)."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[[dict[str, Any], int], tuple[int, Any]]  # (body, times asked before) -> (status, content or raw bytes)


@dataclass
class FakeServer:
    """What the server has seen, and where it is."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


@contextmanager
def fake_server(reply: Reply, models: Sequence[str] = ()) -> Iterator[FakeServer]:
    """Serve while the block runs; `models` is what a GET lists.

    A reply that is bytes is sent as it is, anything else as a completion's content.
    """
    seen, asked, lock = FakeServer(), Counter[str](), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = json.dumps({"data": [{"id": name} for name in models]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            identity = json.dumps(body, sort_keys=True)
            with lock:
                seen.bodies.append(body)
                seen.keys.append(self.headers.get("Authorization", ""))
                before = asked[identity]
                asked[identity] += 1
            status, content = reply(body, before)
            usage = {"prompt_tokens": 100, "completion_tokens": 20}
            whole = {"choices": [{"message": {"role": "assistant", "content": content}}], "usage": usage}
            data = content if isinstance(content, bytes) else json.dumps(whole).encode()
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", "7")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    seen.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
