from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from codeflow.core.config import Config
from codeflow.core.errors import InfrastructureError, Preempted, UserError
from codeflow.core.manifest import MANIFEST, Counts, Manifest, check_files, seal
from codeflow.core.storage import write_text
from codeflow.execute.chain import Stage, plan, run_chain

WORLD = {"state": "calm"}


class WordConfig(Config):
    word: str = "a"
    fail: bool = False


def world(config: WordConfig) -> str:
    return WORLD["state"]


def write_word(config: WordConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    before = "".join((folder / "word.txt").read_text() for folder in inputs.values())
    write_text(output / "word.txt", before + config.word)
    if config.fail:
        raise RuntimeError("planted fault")
    return seal(output, Counts(read=1, kept=1), {"length": len(before) + 1})


def wait_for_sibling(config: WordConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Leave a mark, and finish only when the sibling's mark is there: two of them need to run at the same time."""
    write_text(output.parent / f"{config.word}.mark", "here")
    sibling = output.parent / ("b.mark" if config.word == "a" else "a.mark")
    for _ in range(600):
        if sibling.exists():
            return write_word(config, inputs, output)
        time.sleep(0.05)
    raise AssertionError("the sibling never ran beside this stage")


def die(config: WordConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def save_when_asked(config: WordConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Stand in for a phase: say that it runs, and save when SIGTERM comes."""
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    write_text(output.parent / f"{output.name}.pid", str(os.getpid()))
    while not asked:
        time.sleep(0.01)
    write_text(output / "saved.txt", config.word)
    raise Preempted(f"'{output.name}' saved")


def sleep(config: WordConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Stand in for a stage that has nothing to save."""
    write_text(output.parent / f"{output.name}.pid", str(os.getpid()))
    time.sleep(60)
    raise AssertionError


def run_until(folder: Path, stages: list[Stage], names: list[str]) -> tuple[int, str]:
    """Run the stages in a process of their own and send it SIGTERM when those `names` run; return how it ended."""
    code = f"""
import sys
from pathlib import Path
from codeflow.core.errors import Preempted
from tests.execute.test_chain import Stage, WordConfig, run_chain
if __name__ == "__main__":
    stages = [Stage(n, "word", r, WordConfig(), cores=c) for n, r, c in {[(s.name, s.run, s.cores) for s in stages]!r}]
    try:
        run_chain(stages, Path({str(folder)!r}), n_cores=2)
    except Preempted as ending:
        print("stopped:", ending)
"""
    (folder / "main.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, str(folder / "main.py")], stdout=subprocess.PIPE, env=environment)
    with process:
        wait_until(lambda: all((folder / f"{name}.pid").exists() for name in names))
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    return process.returncode, output.decode()


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(1200):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("waited for a minute in vain")


def chain(first: str = "a", second: str = "b", fail: bool = False) -> list[Stage]:
    run = f"{__name__}:write_word"
    return [
        Stage("one", "word", run, WordConfig(word=first), world=f"{__name__}:world"),
        Stage("two", "word", run, WordConfig(word=second, fail=fail), {"before": "one"}),
        Stage("three", "word", run, WordConfig(word="c"), {"before": "two"}),
    ]


def actions(stages: list[Stage], folder: Path) -> list[str]:
    return [step.action for step in plan(stages, folder)]


def test_second_run_reuses_everything(tmp_path: Path) -> None:
    assert actions(chain(), tmp_path) == ["run", "run", "run"]
    first = run_chain(chain(), tmp_path)
    assert (tmp_path / "three" / "word.txt").read_text() == "abc"
    assert actions(chain(), tmp_path) == ["reuse", "reuse", "reuse"]
    assert run_chain(chain(), tmp_path) == first


def test_a_change_remakes_what_depends_on_it_and_nothing_else(tmp_path: Path) -> None:
    run_chain(chain(), tmp_path)
    assert actions(chain(second="x"), tmp_path) == ["reuse", "run", "run"]
    run_chain(chain(second="x"), tmp_path)
    assert (tmp_path / "three" / "word.txt").read_text() == "axc"


def test_a_remade_artifact_with_equal_content_keeps_its_dependants(tmp_path: Path) -> None:
    run_chain(chain(), tmp_path)
    before = (tmp_path / "three" / MANIFEST).stat().st_mtime_ns
    run_chain(chain(), tmp_path, remake=["one"])
    assert (tmp_path / "three" / MANIFEST).stat().st_mtime_ns == before


def test_a_change_of_the_outside_world_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_chain(chain(), tmp_path)
    monkeypatch.setitem(WORLD, "state", "storm")
    assert actions(chain(), tmp_path)[0] == "run"


def test_unfinished_work_is_resumed_and_stale_unfinished_work_is_not(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        run_chain(chain(fail=True), tmp_path)
    assert actions(chain(fail=True), tmp_path) == ["reuse", "resume", "run"]
    assert [step.reason for step in plan(chain(), tmp_path)][1] == "unfinished, and configuration or inputs changed"


def test_truncated_file_is_named_before_any_work(tmp_path: Path) -> None:
    run_chain(chain(), tmp_path)
    (tmp_path / "two" / "word.txt").write_text("")
    with pytest.raises(UserError, match=r"two/word\.txt has 0 of 2 bytes; delete .*two"):
        plan(chain(), tmp_path)


def test_flipped_byte_is_found_by_the_deep_check(tmp_path: Path) -> None:
    run_chain(chain(), tmp_path)
    (tmp_path / "two" / "word.txt").write_text("aB")
    check_files(tmp_path / "two")
    with pytest.raises(UserError, match="does not match its SHA-256"):
        check_files(tmp_path / "two", deep=True)


def test_unknown_stage_to_remake_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no stage 'four'"):
        plan(chain(), tmp_path, remake=["four"])


def test_stages_that_name_their_cores_run_beside_each_other(tmp_path: Path) -> None:
    beside = f"{__name__}:wait_for_sibling"
    stages = [
        Stage("root", "word", f"{__name__}:write_word", WordConfig(word="r")),
        Stage("left", "word", beside, WordConfig(word="a"), {"before": "root"}, cores=1),
        Stage("right", "word", beside, WordConfig(word="b"), {"before": "root"}, cores=1),
        Stage("end", "word", f"{__name__}:write_word", WordConfig(word="e"), {"x": "left", "y": "right"}),
    ]
    manifests = run_chain(stages, tmp_path, n_cores=2)
    assert list(manifests) == ["root", "left", "right", "end"]
    assert (tmp_path / "end" / "word.txt").read_text() == "rarbe"
    assert run_chain(stages, tmp_path, n_cores=1) == manifests


def test_lanes_make_what_one_core_makes(tmp_path: Path) -> None:
    def stages(cores: int | None) -> list[Stage]:
        return [Stage(s.name, s.kind, s.run, s.config, s.inputs, cores=cores) for s in chain()]

    alone = run_chain(stages(None), tmp_path / "alone")
    beside = run_chain(stages(1), tmp_path / "beside", n_cores=2)
    assert [m.fingerprint for m in alone.values()] == [m.fingerprint for m in beside.values()]


def test_errors_of_a_lane_end_the_run_and_name_it(tmp_path: Path) -> None:
    wrong = Stage("wrong", "word", f"{__name__}:write_word", WordConfig(fail=True), cores=1)
    with pytest.raises(RuntimeError, match="planted fault"):
        run_chain([wrong], tmp_path, n_cores=2)
    dying = Stage("dying", "word", f"{__name__}:die", WordConfig(), cores=1)
    with pytest.raises(InfrastructureError, match="the process of dying died"):
        run_chain([dying], tmp_path, n_cores=2)


def test_sigterm_lets_a_lane_save_and_ends_the_others(tmp_path: Path) -> None:
    stages = [
        Stage("phase", "word", f"{__name__}:save_when_asked", WordConfig(), cores=1),
        Stage("beside", "word", f"{__name__}:sleep", WordConfig(), cores=1),
        Stage("later", "word", f"{__name__}:write_word", WordConfig()),
    ]
    code, said = run_until(tmp_path, stages, ["phase", "beside"])
    assert (code, said.splitlines()[-1]) == (0, "stopped: 'phase' saved")
    assert (tmp_path / "phase" / "saved.txt").read_text() == "a"
    assert actions(stages, tmp_path) == ["resume", "resume", "run"]
    for name in ("phase", "beside"):
        pid = int((tmp_path / f"{name}.pid").read_text())
        wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists())


def test_sigterm_without_a_phase_says_where_the_run_ended(tmp_path: Path) -> None:
    stages = [Stage("alone", "word", f"{__name__}:sleep", WordConfig(), cores=1)]
    code, said = run_until(tmp_path, stages, ["alone"])
    assert (code, said.splitlines()[-1]) == (0, "stopped: alone ended; the same command goes on from there")


def test_sigterm_kills_a_stage_in_this_process_as_ever(tmp_path: Path) -> None:
    stages = [Stage("here", "word", f"{__name__}:sleep", WordConfig())]
    code, said = run_until(tmp_path, stages, ["here"])
    assert code == -signal.SIGTERM
    assert "stopped" not in said
    assert actions(stages, tmp_path) == ["resume"]
