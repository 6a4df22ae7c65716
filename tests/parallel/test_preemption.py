"""SIGTERM is noted while a run wants to know of it, and kills as ever afterwards."""

from __future__ import annotations

import os
import signal
import threading

from codeflow.parallel.preemption import Preemption, preemption


def test_sigterm_is_noted() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with preemption() as noted:
        assert not noted.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert noted.asked
    assert signal.getsignal(signal.SIGTERM) == before


def test_other_threads_get_no_signals() -> None:
    found: list[Preemption] = []

    def run() -> None:
        with preemption() as noted:
            found.append(noted)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert [noted.asked for noted in found] == [False]
