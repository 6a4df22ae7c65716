"""The number format of a recipe that is made for any machine: bf16 is half the bytes, but not faster everywhere.

A processor without bf16 instructions multiplies in bf16 about four times slower than in fp32 (measured: 29 against 116
GFLOP/s per core on an AVX-512 server), one with them two to four times faster.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, Literal, TypeVar

from llvmlite.binding import get_host_cpu_features

from codeflow.core.config import Config, validate

Precision = Literal["bf16", "fp32"]
RecipeT = TypeVar("RecipeT", bound=Config)

_DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
_INSTRUCTIONS = ("avx512bf16", "amx-bf16", "bf16")  # x86, x86, ARM; as LLVM names them
_ACCELERATOR = Path("/dev/nvidia0")


def native_precision() -> Precision:
    """Return "bf16" where an accelerator or the processor's instructions multiply in it, otherwise "fp32".

    torch is not asked, for loading it takes longer than a finished recipe needs to say so. Apple's processors count as
    fp32: torch multiplies there with a library that has no bf16.
    """
    if _ACCELERATOR.exists():
        return "bf16"
    features = get_host_cpu_features()
    native = platform.system() != "Darwin" and any(features.get(name) for name in _INSTRUCTIONS)
    return "bf16" if native else "fp32"


def in_precision(recipe: RecipeT, precision: Precision) -> RecipeT:
    """Return `recipe` with every training, rollout and evaluation in `precision` (fields `precision` and `dtype`)."""
    values = {"precision": precision, "dtype": _DTYPES[precision]}

    def changed(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {name: values.get(name, changed(value)) for name, value in tree.items()}
        return [changed(value) for value in tree] if isinstance(tree, list) else tree

    return validate(type(recipe), changed(recipe.model_dump(mode="json")))
