"""The benchmarks that can be asked for by name. Leaves are imported only when they are."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from codeflow.core.errors import UserError, suggest
from codeflow.eval.benchmark import Benchmark

_LEAVES = {
    "humaneval": ("humaneval",),
    "mbpp": ("mbpp",),
    "evalplus": ("humaneval_plus", "mbpp_plus"),
    "cruxeval": ("cruxeval_output", "cruxeval_input"),
    "livecodebench": ("livecodebench",),
    "mercury": ("mercury",),
    "crosscodeeval": ("crosscodeeval",),
    "spider": ("spider",),
    "bird": ("bird",),
    "bfcl": ("bfcl",),
    "bfcl_multi_turn": ("bfcl_multi_turn",),
    "xstest": ("xstest",),
    "aider_polyglot": ("aider_polyglot_diff", "aider_polyglot_whole"),
    "project_completion": ("project_completion",),
}
NAMES = tuple(name for names in _LEAVES.values() for name in names)


def find(wanted: Sequence[str]) -> list[Benchmark]:
    """Return the benchmarks of the given names; a leaf's name stands for all of its own.

    Raises UserError for a name that nothing has.
    """
    found: dict[str, Benchmark] = {}
    for name in wanted:
        leaf = name if name in _LEAVES else next((leaf for leaf, names in _LEAVES.items() if name in names), None)
        if leaf is None:
            raise UserError(f"no benchmark '{name}'{suggest(name, {*_LEAVES, *NAMES})}")
        module = importlib.import_module(f"codeflow.eval.benchmarks.{leaf}")
        several: Sequence[Benchmark] = getattr(module, "BENCHMARKS", None) or (module.BENCHMARK,)
        found |= {one.name: one for one in several if name in (leaf, one.name)}
    return list(found.values())
