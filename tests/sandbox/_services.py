"""Services that lend containers, as far as the transports speak to them: an HTTP server and a kubectl of our own.

Both start programs on this machine, without isolation: only harmless ones are run on them.
"""

from __future__ import annotations

import json
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KUBECTL = r"""#!/bin/sh
# get apply, wait, exec and delete of one pod as kubectl takes them; a folder stands for the cluster
state=$CODEFLOW_TEST_CLUSTER
printf '%s\n' "$*" >> "$state/calls"
while [ "${1#--}" != "$1" ]; do shift; done
verb=$1; shift
case $verb in
  apply) [ "$1 $2" = "-f -" ] || exit 9; cat > "$state/manifest"; echo applied ;;
  wait) [ -e "$state/manifest" ] || [ -e "$state/there" ] && exit 0
        echo 'Error from server (NotFound): pods not found' >&2; exit 1 ;;
  exec) [ "$1" = -i ] || exit 9; shift 2; [ "$1" = -- ] || exit 9; shift
        [ -e "$state/broken" ] && { echo 'error: unable to upgrade connection' >&2; exit 1; }
        exec "$@" ;;
  delete) [ "$1" = pod ] || exit 9; mv "$state/manifest" "$state/deleted" ;;
  *) echo "unknown command $verb" >&2; exit 1 ;;
esac
"""


def make_kubectl(folder: Path) -> None:
    """Put the program there."""
    (folder / "kubectl").write_text(KUBECTL)
    (folder / "kubectl").chmod(0o755)


class SweRexServer:
    """The part of a SWE-ReX server's HTTP interface that runs commands outside sessions; use as a context manager."""

    def __init__(self, token: str) -> None:
        self.requests: list[tuple[str, Any]] = []
        self.broken: int | None = None  # a status to answer with
        service = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._answer("is_alive", None)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._answer(self.path.strip("/"), body)

            def _answer(self, call: str, body: Any) -> None:
                service.requests.append((call, body))
                status, answer = (401, {"detail": "Invalid API Key"})
                if self.headers["X-API-Key"] == token:
                    status, answer = service.answer(call, body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, call: str, body: Any) -> tuple[int, Any]:
        """Return status and body, as the server does; its exceptions come with 511."""
        if self.broken and call != "is_alive":
            return self.broken, {"swerexception": {"message": "broken", "class_path": "x", "traceback": "secret"}}
        if call == "is_alive":
            return 200, {"is_alive": True, "message": ""}
        if call == "write_file":
            Path(body["path"]).write_text(body["content"])
            return 200, {}
        if call == "execute":
            try:
                done = subprocess.run(
                    body["command"],
                    shell=body["shell"],
                    capture_output=True,
                    timeout=body["timeout"],
                    check=False,
                    stdin=-3,
                )
            except subprocess.TimeoutExpired:
                return 511, {"swerexception": {"message": "Timeout exceeded", "class_path": "x", "traceback": ""}}
            texts = {"stdout": done.stdout.decode(), "stderr": done.stderr.decode()}
            return 200, {**texts, "exit_code": done.returncode}
        return 404, {"detail": "Not Found"}

    def __enter__(self) -> SweRexServer:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
