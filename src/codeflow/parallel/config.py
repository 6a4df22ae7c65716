"""How the processes of a training run are laid out (no torch here)."""

from __future__ import annotations

from itertools import product
from typing import Literal

from pydantic import Field, field_validator, model_validator

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
    context_exchange: Literal["ring", "all_to_all"] = "ring"  # keys go around; or positions are exchanged for heads
    context_keys: Literal["ring", "gather"] = "ring"  # of the ring: sent around in each loop, or once and kept
    regather: bool = True  # weights are gathered for each use; False: once per step, and kept whole until the update

    @model_validator(mode="after")
    def _one_way(self) -> MeshConfig:
        if self.context_exchange == "all_to_all" and self.context_keys == "gather":
            raise ValueError(
                "context_keys=gather belongs to context_exchange=ring; all_to_all exchanges the first loop's keys and "
                "values once and keeps them in any case, so leave context_keys out"
            )
        return self

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
            shape = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
            raise UserError(
                f"mesh {shape} needs {others * shard} processes, {n_ranks} are running; "
                f"start so many, or change the sizes under mesh"
            )
        return self.data, shard, self.context, self.tensor

    def without_ranks(self, n: int, batch_rows: int) -> MeshConfig | None:
        """Return the largest layout within this one on `n` processes fewer; None if there is none.

        Its readers divide `batch_rows`; context and tensor axes shrink to divisors of theirs.
        """
        left = self.n_processes - n
        shards = range(1, (self.shard or 1) + 1)
        divisors = [[size for size in range(1, own + 1) if own % size == 0] for own in (self.context, self.tensor)]
        fitting = [
            (data * shard * context * tensor, tensor, context, shard, data)
            for data, shard, context, tensor in product(range(1, self.data + 1), shards, *divisors)
            if data * shard * context * tensor <= left and batch_rows % (data * shard) == 0
        ]
        if not fitting:
            return None
        _, tensor, context, shard, data = max(fitting)
        return self.model_copy(update={"data": data, "shard": shard, "context": context, "tensor": tensor})


CHECKS = ("parameters", "gradients", "state", "payloads")


class IntegrityConfig(Config):
    """Which silent errors are looked for, how often, and what follows (docs/integrity.md).

    `parameters`: replicated weights as the forward pass uses them; `gradients`: after the reduction; `state`: masters,
    optimizer state and working copy, from one update to the next; `payloads`: what context parallelism sends.
    """

    checks: tuple[Literal["parameters", "gradients", "state", "payloads"], ...] = CHECKS
    every_steps: int | None = Field(default=20, ge=1)  # None: never
    recompute_every_steps: int | None = Field(default=500, ge=1)  # a micro-batch computed again; None: never
    recompute_on: Literal["same", "both"] = "same"  # rank; both: on the next reader's, too
    on_mismatch: Literal["stop", "roll_back"] = "stop"  # roll_back: from the last good checkpoint, without that rank
    max_roll_backs: int = Field(default=3, ge=0)  # then the run ends

    @field_validator("checks")
    @classmethod
    def _once(cls, checks: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(checks)) < len(checks):
            raise ValueError("name every check once")
        return checks
