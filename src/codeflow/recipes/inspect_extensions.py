"""What Inspect AI (inspect.aisi.org.uk) finds of this project by its entry point: sandbox and model, both `codeflow`.

inspect eval task.py --sandbox codeflow --model codeflow/runs/tiny/rl_instruct
"""

from __future__ import annotations

from inspect_ai.model import ModelAPI, modelapi  # pyright: ignore[reportMissingImports]

from codeflow.sandbox.inspect_environment import CodeflowEnvironment

__all__ = ["CodeflowEnvironment", "codeflow"]


@modelapi(name="codeflow")
def codeflow() -> type[ModelAPI]:
    """Return the model's class; torch is loaded when one is asked for."""
    from codeflow.recipes.inspect_model import CodeflowModel

    return CodeflowModel
