from __future__ import annotations

import pytest

from codeflow.core.errors import UserError
from codeflow.sandbox.containment import Outcome
from codeflow.sandbox.local import probe
from codeflow.sandbox.result import Status
from codeflow.solve import doctor


@pytest.mark.skipif(not probe().backend, reason=probe().problem or "a sandbox works")
@pytest.mark.parametrize("problem", ["", "ESCAPED"])
def test_what_was_not_contained_is_said_and_counted(monkeypatch, problem):
    async def attacks(opened):
        return [Outcome("one", Status.OK, 0.1, problem)]

    async def cheats(backend):
        return [Outcome("two", Status.OK, 0.1, "")]

    monkeypatch.setattr(doctor, "run_attacks", attacks)
    monkeypatch.setattr(doctor, "run_cheats", cheats)
    said: list[str] = []
    assert doctor.examine("", said.append) is (problem == "")
    assert f"{1 if problem else 2} of 2 attacks contained" in said
    assert any(line.startswith("one ") and line.endswith(problem or "contained") for line in said)


def test_an_unknown_back_end_is_the_users_mistake():
    with pytest.raises(UserError, match="no sandbox back end 'nope'; choose one of: fork server, bubblewrap"):
        doctor.examine("nope", print)
