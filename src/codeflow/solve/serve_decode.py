"""The one thread of a server that decodes: requests from other threads join its continuous batch, pieces go back.

A failure of a step fails the requests of that step and no others; the thread goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from codeflow.core.errors import InfrastructureError, UserError
from codeflow.core.progress import say
from codeflow.model.batching import ContinuousBatch, Piece, Request

Deliver = Callable[[Piece | Exception], None]


class Overloaded(InfrastructureError):
    """More requests wait than the server takes; the client may come back later."""


@dataclass(eq=False)
class Ticket:
    """A request's place in the decode thread."""

    request: Request
    deliver: Deliver  # called in the decode thread, the last time with a stop reason or an exception
    number: int = 0  # that of the batch, once it has joined


class DecodeThread:
    """Runs `batch` in a thread of its own, which alone touches it."""

    def __init__(self, batch: ContinuousBatch, max_waiting: int) -> None:
        """At most `max_waiting` requests wait for a row; more are refused."""
        self._batch, self._max_waiting = batch, max_waiting
        self._changed = threading.Condition()
        self._new: list[Ticket] = []
        self._cancelled: list[Ticket] = []
        self._active: dict[int, Ticket] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """True while requests are served."""
        return self._thread.is_alive() and not self._stopping

    def submit(self, pairs: list[tuple[Request, Deliver]]) -> list[Ticket]:
        """Queue requests, all or none. Raises Overloaded when too many wait, or the server is stopping."""
        tickets = [Ticket(*pair) for pair in pairs]
        with self._changed:
            if self._stopping:
                raise Overloaded("the server is stopping; ask another one")
            if len(self._new) + self._batch.n_waiting + len(tickets) > self._max_waiting:
                raise Overloaded(f"more than {self._max_waiting} requests would wait; try again later")
            self._new += tickets
            self._changed.notify()
        return tickets

    def cancel(self, tickets: list[Ticket]) -> None:
        """Free what these requests hold; nothing more is delivered to them once the thread has seen it."""
        with self._changed:
            self._cancelled += tickets
            self._changed.notify()

    def stop(self, seconds: float) -> None:
        """Take no more requests; let those at work end, for at most `seconds`, then fail the rest."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(seconds)
        if self._thread.is_alive():
            self.cancel([*self._new, *list(self._active.values())])
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._new or self._cancelled or self._active or self._stopping):
                    self._changed.wait()
                new, cancelled = self._new, self._cancelled
                self._new, self._cancelled = [], []
                if self._stopping and not (new or self._active):
                    return
            for ticket in new:
                self._join(ticket)
            for ticket in cancelled:
                if self._active.pop(ticket.number, None):
                    self._batch.cancel(ticket.number)
            self._step()

    def _join(self, ticket: Ticket) -> None:
        try:
            ticket.number = self._batch.submit(ticket.request)
            self._active[ticket.number] = ticket
        except UserError as error:
            ticket.deliver(error)

    def _step(self) -> None:
        try:
            pieces = self._batch.step()
        except Exception as error:  # a bug or no memory: it must not take the other clients' server away
            say(f"error: decoding failed: {type(error).__name__}: {error}")
            for number, ticket in self._active.items():
                self._batch.cancel(number)
                ticket.deliver(error)
            self._active.clear()
            return
        for piece in pieces:
            ticket = self._active.get(piece.ticket)
            if ticket is None:
                continue
            ticket.deliver(piece)
            if piece.stop_reason:
                del self._active[piece.ticket]
