from __future__ import annotations

import pytest

from codeflow.core.types import Verdict
from codeflow.eval import programs
from codeflow.eval.records import Scorer
from codeflow.sandbox.policy import Limits
from codeflow.sandbox.result import Result, Status
from codeflow.solve.verify import Checked

_SCORER = Scorer("b", "c", {}, 50, 0)


def _checked(passed: bool, fault: str = "") -> Checked:
    status = Status.INFRASTRUCTURE if fault == "infrastructure" else Status.OK
    result = Result(status, 0, 0.1, 0.1, None, b"", b"", b"", False, "bubblewrap")
    return Checked(Verdict(passed, float(passed), "at 0x7f00aa11, half \ud800", fault, int(passed), 1), result)


@pytest.mark.parametrize(
    ("output", "block"),
    [
        ("    return 1\n", "    return 1\n"),
        ("    return 1\nprint(2)\n", "    return 1\n"),
        ("    a = 1\n\n    return a\n\n\ndef g():\n", "    a = 1\n\n    return a\n\n\n"),
        ("", ""),
        (" return 1\n\tx", " return 1\n\tx"),
        ("x = 1\n    y\nz", "x = 1\n    y\n"),  # the first line may begin inside an indentation that the prompt gave
    ],
)
def test_block_ends_before_the_first_line_that_is_not_indented(output, block):
    assert programs.cut_block(output) == block


def test_humaneval_output_is_cut_at_the_first_stop_text():
    assert programs.cut_humaneval("    return 1\n\nprint(3)\n# x\n") == "    return 1\n"
    assert programs.cut_humaneval("    return 1\n") == "    return 1\n"


def test_infrastructure_faults_are_counted_never_scored():
    good, bad, fault = _checked(True), _checked(False, "model"), _checked(False, "infrastructure")
    tasks = programs.own_tasks()[:3]
    scores = programs.score(_SCORER, tasks, [[good, bad], [good, fault], [fault, fault]], (1, 2))
    by_metric = {s.metric: s for s in scores}
    assert by_metric["pass@1"].value == pytest.approx((0.5 + 1.0) / 2)
    assert (by_metric["pass@1"].n, by_metric["pass@1"].n_faults) == (2, 3)
    assert (by_metric["pass@2"].value, by_metric["pass@2"].n) == (1.0, 1)
    assert programs.score(_SCORER, tasks, [[fault], [fault], [fault]], (1,)) == []


def test_rows_hold_nothing_that_differs_between_runs():
    task = programs.own_tasks()[0]
    (row,) = programs.rows("c", [task], [["    return 1\n"]], [[_checked(False, "model")]])
    assert row.reason == "at 0x.., half ?"
    assert row.sandbox == "ok"
    assert row.task == "micro_tasks/add_tax"


def test_gold_is_proved_and_equal_answers_run_once(monkeypatch):
    if programs.sandbox_problem():
        pytest.skip(programs.sandbox_problem())
    tasks = programs.own_tasks()[:4]
    assert programs.prove(tasks, Limits(), 2) == []
    ran: list[str] = []
    from codeflow.solve import verify

    honest = verify.verify

    async def counting(task, answer, sandbox, limits=None):
        ran.append(answer)
        return await honest(task, answer, sandbox, limits)

    monkeypatch.setattr(verify, "verify", counting)
    gold = tasks[1].gold
    ((first, second, third),) = programs.check([tasks[1]], [[gold, "    pass\n", gold]], Limits(), 2)
    assert len(ran) == 2
    assert first.verdict.passed
    assert not second.verdict.passed
    assert third is first
