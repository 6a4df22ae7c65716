"""Memory between what is still in use goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

from codeflow.core import freed_memory

CODE = """
import numpy
from pathlib import Path
from codeflow.core.freed_memory import give_back
from codeflow.train.allocator import kept_memory

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 2**20

with kept_memory():
    blocks = [numpy.ones(2**17) for _ in range(200)]  # of 1 MiB
    full = resident_mib()
    blocks = blocks[::20]
    freed = resident_mib()
    give_back()
    print(full - freed, freed - resident_mib())
"""


def test_room_is_made_where_memory_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(freed_memory, "give_back", lambda: calls.append(True))
    freed_memory.make_room(2**30)
    with freed_memory.sparing(False):
        freed_memory.make_room(2**30)
    assert not calls
    with freed_memory.sparing():
        freed_memory.make_room(2**20)
        assert not calls
        freed_memory.make_room(2**30)
    assert calls == [True]
    freed_memory.make_room(2**30)
    assert calls == [True]


def test_holes_are_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True)
    by_freeing, by_giving_back = map(int, done.stdout.split())
    assert by_freeing < 20
    assert by_giving_back > 150
