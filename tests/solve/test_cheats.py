from __future__ import annotations

import asyncio

import pytest

from codeflow.sandbox.local import probe
from codeflow.solve.cheats import CHEATS, TASKS, run_cheats

pytestmark = pytest.mark.skipif(not probe().backend, reason=probe().problem or "a sandbox works")


def test_no_cheat_passes_and_honest_answers_do():
    outcomes = asyncio.run(run_cheats())
    assert len(outcomes) == len(CHEATS) + len(TASKS)
    assert [(outcome.name, outcome.problem) for outcome in outcomes if outcome.problem] == []
