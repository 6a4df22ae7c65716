"""Machine code that several processes compile and keep at the same time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from codeflow.kernels import compiled, compiled_step

# A function of its own in a module of its own, so that its cache is empty.
_MODULE = """
from codeflow.kernels.compiled import _compiled

@_compiled
def double(x):
    for i in range(x.shape[0]):
        x[i] = x[i] * 2
"""
_SCRIPT = """
import sys, time
import numpy as np
from numba.core.caching import IndexDataCacheFile

load = IndexDataCacheFile._load_index
if sys.argv[1] == "slow":  # the others read the index before this one writes it
    IndexDataCacheFile._load_index = lambda self: (load(self), time.sleep(1.5))[0]
from doubling import double

for dtype in sys.argv[2:]:
    values = np.arange(5).astype(dtype)
    double(values)
    assert values.tolist() == [0, 2, 4, 6, 8], dtype
print(sum(double.stats.cache_hits.values()))
"""


def _start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _SCRIPT, *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_machine_code_is_old_when_what_it_holds_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of another module may hold functions of `compiled`: its cache looks at both files."""
    before = compiled._SharedCache(compiled_step.step.py_func)._cache_file._source_stamp
    assert before == compiled_step.step._cache._cache_file._source_stamp
    changed = tmp_path / "compiled.py"
    changed.write_text(Path(compiled.__file__).read_text() + "\n")
    monkeypatch.setattr(compiled, "__file__", str(changed))
    assert compiled._SharedCache(compiled_step.step.py_func)._cache_file._source_stamp != before


@pytest.mark.slow
def test_two_processes_that_compile_at_once_leave_a_sound_cache(tmp_path: Path) -> None:
    (tmp_path / "doubling.py").write_text(_MODULE)
    first = [_start(tmp_path, "slow", dtype) for dtype in ("float32", "uint16")]
    for process in first:
        _, words = process.communicate(timeout=120)
        assert process.returncode == 0, words
    found, words = _start(tmp_path, "quick", "float32", "uint16").communicate(timeout=120)
    assert found == "2\n", words
