"""Starting the processes of a run on this machine, for those who did not start them with torchrun.

A rank that fails or dies ends the others, and the run with its reason. All of them end with the process that started
them.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from codeflow.core.errors import InfrastructureError, UserError
from codeflow.execute.local import default_workers, end_with
from codeflow.parallel.config import MeshConfig

_FAILURE = "failure.json"
_ERRORS = {error.__name__: error for error in (UserError, InfrastructureError)}


def must_launch(config: MeshConfig) -> bool:
    """Say whether the mesh asks for processes that nobody has started."""
    return config.n_processes > 1 and "WORLD_SIZE" not in os.environ and not dist.is_initialized()


def launch(config: MeshConfig, function: Callable[..., Any], *arguments: Any) -> None:
    """Call `function(*arguments)` on as many processes as the mesh asks for, joined in one world, and wait for all.

    Raises what a rank raised if it was a UserError or an InfrastructureError, and InfrastructureError naming the rank
    when one died.
    """
    n_ranks = config.n_processes
    with tempfile.TemporaryDirectory(prefix="codeflow-ranks-") as name:
        folder = Path(name)
        try:
            spawn(_rank, (n_ranks, os.getpid(), folder, function, arguments), nprocs=n_ranks)
        except ProcessExitedException as error:
            raise InfrastructureError(
                f"rank {error.error_index} of {n_ranks} died ({error.signal_name or f'exit code {error.exit_code}'}); "
                "the same command goes on from the last good checkpoint"
            ) from None
        except ProcessRaisedException as error:
            if not (folder / _FAILURE).exists():
                raise
            kind, message = json.loads((folder / _FAILURE).read_text())
            raise _ERRORS[kind](message) from error


def _rank(
    rank: int, n_ranks: int, parent: int, folder: Path, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    end_with(parent)
    os.environ["LOCAL_WORLD_SIZE"] = str(n_ranks)  # as torchrun does: cores are shared
    store = dist.FileStore(str(folder / "store"), n_ranks)  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=n_ranks)
    try:
        function(*arguments)
    except (UserError, InfrastructureError) as error:
        temporary = folder / f"{_FAILURE}.{rank}"
        temporary.write_text(json.dumps([type(error).__name__, str(error)]))
        os.replace(temporary, folder / _FAILURE)
        raise
    dist.destroy_process_group()


def cores_per_process() -> int:
    """Return how many of the cores that this process may use are its own, others of the run on this machine counted."""
    return max(default_workers() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)
