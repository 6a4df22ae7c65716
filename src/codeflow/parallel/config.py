"""How the processes of a training run are laid out (no torch here)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from codeflow.core.config import Config
from codeflow.core.errors import UserError

AXES = ("data", "shard", "context", "tensor")  # of the mesh, outermost first


class MeshConfig(Config):
    """Sizes of the mesh axes, whose product is the number of processes, and how the parts are used.

    Groups along `data` and `shard` read rows of their own; those along `context` read parts of the same rows,
    and those along `tensor` the same parts.
    """

    data: int = Field(default=1, ge=1)  # groups that hold the same parameters
    shard: int | None = Field(default=None, ge=1)  # groups that share one copy; None: all that others leave over
    context: int = Field(default=1, ge=1)  # processes that share each row, and the parameters too
    tensor: int = Field(default=1, ge=1)  # processes that share each matrix
    context_keys: Literal["ring", "gather"] = "ring"  # the first loop's: sent around in each loop, or once and kept
    regather: bool = True  # weights are gathered for each use; False: once per step, and kept whole until the update

    @property
    def n_processes(self) -> int:
        """The least number of processes that fits."""
        return self.data * (self.shard or 1) * self.context * self.tensor

    def sizes(self, n_ranks: int) -> tuple[int, int, int, int]:
        """Return the sizes of `AXES` for `n_ranks` processes. Raises UserError when they do not multiply up."""
        others = self.data * self.context * self.tensor
        shard = self.shard if self.shard is not None else max(n_ranks // others, 1)
        if others * shard != n_ranks:
            sizes = (self.data, shard, self.context, self.tensor)
            product = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
            raise UserError(
                f"mesh {product} needs {others * shard} processes, {n_ranks} are running; "
                f"start so many, or change the sizes under mesh"
            )
        return self.data, shard, self.context, self.tensor
