"""How the processes of a training run are laid out (no torch here)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from codeflow.core.config import Config
from codeflow.core.errors import UserError

AXES = ("data", "shard", "context")  # of the mesh, outermost first


class MeshConfig(Config):
    """Sizes of the mesh axes, whose product is the number of processes, and how the parts are used.

    Groups along `data` and `shard` read rows of their own; those along `context` read parts of the same rows.
    """

    data: int = Field(default=1, ge=1)  # groups that hold the same parameters
    shard: int | None = Field(default=None, ge=1)  # groups that share one copy; None: all that others leave over
    context: int = Field(default=1, ge=1)  # processes that share each row, and the parameters too
    context_keys: Literal["ring", "gather"] = "ring"  # the first loop's: sent around in each loop, or once and kept
    regather: bool = True  # weights are gathered for each use; False: once per step, and kept whole until the update

    def sizes(self, n_ranks: int) -> tuple[int, int, int]:
        """Return the sizes of `AXES` for `n_ranks` processes. Raises UserError when they do not multiply up."""
        others = self.data * self.context
        shard = self.shard if self.shard is not None else max(n_ranks // others, 1)
        if others * shard != n_ranks:
            sizes = {"data": self.data, "shard": shard, "context": self.context}
            product = " x ".join(f"{axis}={size}" for axis, size in sizes.items())
            raise UserError(
                f"mesh {product} needs {others * shard} processes, {n_ranks} are running; "
                f"start torchrun with --nproc-per-node {others * shard} or change the sizes under mesh"
            )
        return self.data, shard, self.context
