"""How the processes of a training run are laid out (no torch here)."""

from __future__ import annotations

from pydantic import Field

from codeflow.core.config import Config
from codeflow.core.errors import UserError


class MeshConfig(Config):
    """Sizes of the mesh axes; their product is the number of processes."""

    data: int = Field(default=1, ge=1)  # groups that hold the same parameters
    shard: int | None = Field(default=None, ge=1)  # processes that share one copy; None: all that `data` leaves over

    def sizes(self, n_ranks: int) -> tuple[int, int]:
        """Return (data, shard) for `n_ranks` processes. Raises UserError when they do not multiply up."""
        shard = self.shard if self.shard is not None else max(n_ranks // self.data, 1)
        if self.data * shard != n_ranks:
            raise UserError(
                f"mesh data={self.data} x shard={shard} needs {self.data * shard} processes, {n_ranks} are running; "
                f"start torchrun with --nproc-per-node {self.data * shard} or change mesh.data / mesh.shard"
            )
        return self.data, shard
