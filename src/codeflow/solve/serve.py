"""An OpenAI-compatible server for one checkpoint: completions, chat, streams, models, health.

    GET  /health                    {"status": "ok", "running": n, "waiting": n}; 503 when stopping
    GET  /v1/models                 the model and its context length
    POST /v1/completions            text or token ids; `suffix` asks for the middle
    POST /v1/chat/completions       messages

Connections are handled by starlette and uvicorn (the extra `serve`); one thread decodes for all of them. A client that
goes away frees its place. There is no access control: it listens on 127.0.0.1 unless told otherwise, and takes only
JSON bodies, which a web page of another origin cannot send.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import uvicorn
from pydantic import Field, PositiveInt
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from codeflow.core.config import Config, validate
from codeflow.core.errors import UserError
from codeflow.core.progress import say
from codeflow.model.batching import ContinuousBatch, Piece
from codeflow.model.looped import LoopCoder
from codeflow.solve.serve_decode import DecodeThread, Overloaded, Ticket
from codeflow.solve.serve_reply import Reply, error_body
from codeflow.solve.serve_schema import (
    AskedFor,
    ChatAsked,
    CompletionAsked,
    Planned,
    plan_chat,
    plan_completion,
)
from codeflow.tokens.tokenizer import Tokenizer

_DRAINED_BYTES = 64 << 20  # read of a body that is too large, so that its sender gets to read the answer
_POLL_SECONDS = 0.5  # how often a client that only waits is looked after

AskedT = TypeVar("AskedT", bound=AskedFor)


class ServeConfig(Config):
    """Where to listen, and how much to take on."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)  # 0: any free one
    max_rows: PositiveInt = 16  # requests decoded at a time
    max_waiting: PositiveInt = 256  # requests that may wait for a row; more are refused with status 429
    cache_tokens: PositiveInt | None = None  # of all rows together; None: every row may fill the context
    max_body_bytes: PositiveInt = 4 * 2**20
    chat_tokens: PositiveInt = 1024  # longest answer in a chat that names none
    stop_seconds: float = Field(default=30.0, ge=0)  # how long requests at work may go on after SIGTERM


@dataclass(frozen=True)
class Served:
    """A model under the name that clients ask for."""

    name: str
    model: LoopCoder
    tokenizer: Tokenizer


def serve(served: Served, config: ServeConfig, ready: Callable[[int], None] | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C; `ready` is called with the port once clients are answered."""
    app = make_app(served, config)

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                port = self.servers[0].sockets[0].getsockname()[1]
                say(f"serving {served.name} on http://{config.host}:{port}/v1; stop with Ctrl-C")
                if ready:
                    ready(port)

    options = uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        log_level="warning",
        timeout_graceful_shutdown=max(1, round(config.stop_seconds)),
    )
    # uvicorn raises the signals that it has handled again once it has stopped, for the handlers before its own.
    with contextlib.suppress(ValueError):  # in a thread that is not the main one there are no handlers
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
    server = Server(options)
    server.run()
    if not server.started:
        raise UserError(f"cannot listen on {config.host}:{config.port}; choose another port")


def make_app(served: Served, config: ServeConfig) -> Starlette:
    """Return the application; its decode thread runs from start-up to shutdown."""
    service = _Service(served, config)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.decode.stop, config.stop_seconds)

    routes = [
        Route("/health", service.health),
        Route("/v1/models", service.models),
        Route("/v1/models/{name:path}", service.models),
        Route("/v1/completions", service.completions, methods=["POST"]),
        Route("/v1/chat/completions", service.chat, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {
        HTTPException: _http_error,
        UserError: _user_error,
        Overloaded: _overloaded,
        ClientDisconnect: _gone,
    }
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)


class _Service:
    """The routes of one served model."""

    def __init__(self, served: Served, config: ServeConfig) -> None:
        self.served, self.config = served, config
        self.context_tokens = served.model.config.max_position_embeddings

    def start(self) -> None:
        config = self.config
        self.batch = ContinuousBatch(self.served.model, config.max_rows, cache_tokens=config.cache_tokens)
        self.decode = DecodeThread(self.batch, config.max_waiting)

    async def health(self, _: Request) -> Response:
        ok = self.decode.alive
        state = {"running": self.batch.n_running, "waiting": self.batch.n_waiting}
        return JSONResponse({"status": "ok" if ok else "stopping", **state}, 200 if ok else 503)

    async def models(self, request: Request) -> Response:
        shown = {
            "id": self.served.name,
            "object": "model",
            "created": 0,
            "owned_by": "codeflow",
            "max_model_len": self.context_tokens,
        }
        if "name" not in request.path_params:
            return JSONResponse({"object": "list", "data": [shown]})
        self._known(request.path_params["name"])
        return JSONResponse(shown)

    async def completions(self, request: Request) -> Response:
        asked = await self._asked(request, CompletionAsked)
        planned = await asyncio.to_thread(plan_completion, asked, self.served.tokenizer, self.context_tokens)
        return await self._answer(request, asked, planned, self._reply(asked, planned, asked.logprobs is not None))

    async def chat(self, request: Request) -> Response:
        asked = await self._asked(request, ChatAsked)
        longest = self.config.chat_tokens
        planned = await asyncio.to_thread(plan_chat, asked, self.served.tokenizer, self.context_tokens, longest)
        return await self._answer(request, asked, planned, self._reply(asked, planned, asked.logprobs))

    def _reply(self, asked: AskedFor, planned: Planned, logprobs: bool) -> Reply:
        kind = "chat" if isinstance(asked, ChatAsked) else "completion"
        return Reply(kind, self.served.name, self.served.tokenizer, logprobs, planned.n_prompt_tokens)

    def _known(self, name: str) -> None:
        if name != self.served.name:
            raise _Refused(404, f"no model '{name}' here; ask for '{self.served.name}'", "model_not_found")

    async def _asked(self, request: Request, kind: type[AskedT]) -> AskedT:
        """Read the body. Refuses what is too large, not JSON, of another shape, or for another model."""
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise _Refused(415, "the body must be JSON; set Content-Type: application/json")
        body, n_bytes = bytearray(), 0
        async for part in request.stream():
            n_bytes += len(part)
            if n_bytes <= self.config.max_body_bytes:
                body += part
            elif n_bytes > _DRAINED_BYTES:
                break
        if n_bytes > self.config.max_body_bytes:
            limit = f"{self.config.max_body_bytes:,} bytes"
            raise _Refused(413, f"the body is larger than {limit}; shorten it", "request_too_large")
        try:
            tree = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise UserError(f"the body is not JSON: {error}") from None
        if not isinstance(tree, dict):
            raise UserError("the body must be a JSON object")
        asked = validate(kind, {name: value for name, value in tree.items() if value is not None})
        self._known(asked.model)
        return asked

    async def _answer(self, request: Request, asked: AskedFor, planned: Planned, reply: Reply) -> Response:
        """Decode, and answer whole or as a stream of server-sent events."""
        pieces: asyncio.Queue[tuple[int, Piece | Exception]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def deliver_to(index: int) -> Callable[[Piece | Exception], None]:
            def deliver(piece: Piece | Exception) -> None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(pieces.put_nowait, (index, piece))

            return deliver

        tickets = self.decode.submit([(one, deliver_to(i)) for i, one in enumerate(planned.requests)])
        arriving = self._arriving(pieces, tickets, request)
        if not asked.stream:
            found: list[list[Piece]] = [[] for _ in tickets]
            async for index, piece in arriving:
                found[index].append(piece)
            return JSONResponse(reply.whole(found))
        try:  # an error before the first token still has a status of its own
            first = await anext(arriving)
        except StopAsyncIteration:
            raise AssertionError("a request ends with a piece") from None
        with_usage = asked.stream_options is not None and asked.stream_options.include_usage
        events = _events(first, arriving, reply, with_usage)
        return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def _arriving(
        self, pieces: asyncio.Queue[tuple[int, Piece | Exception]], tickets: list[Ticket], request: Request
    ) -> AsyncIterator[tuple[int, Piece]]:
        """Yield (choice, piece) as they come until all choices have ended; frees them when the client goes away."""
        n_open = len(tickets)
        try:
            while n_open:
                try:
                    index, piece = await asyncio.wait_for(pieces.get(), _POLL_SECONDS)
                except TimeoutError:
                    if await request.is_disconnected():
                        raise ClientDisconnect from None
                    continue
                if isinstance(piece, UserError):
                    raise piece
                if isinstance(piece, Exception) or piece.stop_reason == "invalid":
                    raise _Refused(500, _failure(piece), "model_failed", "server_error")
                n_open -= bool(piece.stop_reason)
                yield index, piece
        finally:
            self.decode.cancel(tickets)


def _failure(piece: Piece | Exception) -> str:
    if isinstance(piece, Piece):
        return "the model's logits are not numbers: its weights are broken; serve another checkpoint"
    return f"decoding failed ({type(piece).__name__}); the server goes on, see its log"


async def _events(
    first: tuple[int, Piece], rest: AsyncIterator[tuple[int, Piece]], reply: Reply, with_usage: bool
) -> AsyncIterator[str]:
    """Yield server-sent events, the last one "[DONE]"; a failure on the way is an event too."""
    begun: set[int] = set()
    n_made = 0

    def event(index: int, piece: Piece) -> str:
        new = index not in begun
        begun.add(index)
        return f"data: {json.dumps(reply.chunk(index, piece, new))}\n\n"

    try:
        yield event(*first)
        n_made = 1
        async for index, piece in rest:
            n_made += 1
            yield event(index, piece)
        if with_usage:
            yield f"data: {json.dumps(reply.usage_chunk(n_made))}\n\n"
    except _Refused as error:
        yield f"data: {json.dumps(error_body(error.detail, error.kind, error.code))}\n\n"
    yield "data: [DONE]\n\n"


class _Refused(HTTPException):
    """An answer that is an error, with the status, code and kind of the API."""

    def __init__(self, status: int, message: str, code: str | None = None, kind: str = "invalid_request_error") -> None:
        super().__init__(status, message)
        self.code, self.kind = code, kind


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, kind = (error.code, error.kind) if isinstance(error, _Refused) else (None, "invalid_request_error")
    return JSONResponse(error_body(error.detail, kind, code), error.status_code, headers=error.headers)


async def _user_error(_: Request, error: Exception) -> Response:
    return JSONResponse(error_body(str(error)), 400)


async def _overloaded(_: Request, error: Exception) -> Response:
    body = error_body(str(error), "rate_limit_error", "overloaded")
    return JSONResponse(body, 429, headers={"retry-after": "1"})


async def _gone(_: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it
