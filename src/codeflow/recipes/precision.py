"""The number format of a recipe that is made for any machine: bf16 is half the bytes, but not faster everywhere.

On a processor without bf16 instructions torch multiplies in bf16 about four times slower than in fp32 (measured: 29
against 116 GFLOP/s per core on an AVX-512 server), and training, which widens its operands (`kernels.wide`), is 0.9
times as fast as in fp32; one with them is two to four times faster.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from codeflow.core.config import Config, validate
from codeflow.core.processor import multiplies_bf16

Precision = Literal["bf16", "fp32"]
RecipeT = TypeVar("RecipeT", bound=Config)

_DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
_ACCELERATOR = Path("/dev/nvidia0")


def native_precision() -> Precision:
    """Return "bf16" where an accelerator or the processor's instructions multiply in it, otherwise "fp32".

    torch is not asked, for loading it takes longer than a finished recipe needs to say so.
    """
    return "bf16" if _ACCELERATOR.exists() or multiplies_bf16() else "fp32"


def in_precision(recipe: RecipeT, precision: Precision) -> RecipeT:
    """Return `recipe` with every training, rollout and evaluation in `precision` (fields `precision` and `dtype`)."""
    values = {"precision": precision, "dtype": _DTYPES[precision]}

    def changed(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {name: values.get(name, changed(value)) for name, value in tree.items()}
        return [changed(value) for value in tree] if isinstance(tree, list) else tree

    return validate(type(recipe), changed(recipe.model_dump(mode="json")))
