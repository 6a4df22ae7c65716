"""Starting the processes of a run on this machine, for those who did not start them with torchrun.

A rank that fails or dies ends the others, and the run with its reason. All of them end with the process that started
them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from codeflow.core.errors import InfrastructureError, Preempted, UserError
from codeflow.core.progress import say
from codeflow.execute.local import default_workers, end_with
from codeflow.parallel.config import IntegrityConfig, MeshConfig
from codeflow.parallel.faults import RankFault
from codeflow.parallel.preemption import preemption

ResultT = TypeVar("ResultT")
_FAILURE = "failure.json"
_LOOK_SECONDS = 0.2  # between two looks for SIGTERM
_GRACE_SECONDS = 10  # for the others when a rank has failed, until SIGTERM, and again until SIGKILL
_ERRORS = {error.__name__: error for error in (UserError, InfrastructureError, RankFault, Preempted)}


def must_launch(config: MeshConfig) -> bool:
    """Say whether the mesh asks for processes that nobody has started."""
    return config.n_processes > 1 and "WORLD_SIZE" not in os.environ and not dist.is_initialized()


def launch(config: MeshConfig, function: Callable[..., Any], *arguments: Any) -> None:
    """Call `function(*arguments)` on as many processes as the mesh asks for, joined in one world, and wait for all.

    Raises what a rank raised if it was one of our errors, and InfrastructureError naming the rank when one died; the
    others then end within 20 seconds. SIGTERM is handed on to all of them.
    """
    n_ranks = config.n_processes
    with tempfile.TemporaryDirectory(prefix="codeflow-ranks-") as name:
        folder = Path(name)
        try:
            ranks = spawn(_rank, (n_ranks, os.getpid(), folder, function, arguments), nprocs=n_ranks, join=False)
            assert ranks is not None
            with preemption() as noted:
                told = False
                while not ranks.join(_LOOK_SECONDS, _GRACE_SECONDS):
                    if noted.asked and not told:  # they save and end by themselves
                        told = True
                        for process in ranks.pids():
                            with contextlib.suppress(ProcessLookupError):
                                os.kill(process, signal.SIGTERM)
        except ProcessExitedException as error:
            raise InfrastructureError(
                f"rank {error.error_index} of {n_ranks} died ({error.signal_name or f'exit code {error.exit_code}'}); "
                "the same command goes on from the last good checkpoint"
            ) from None
        except ProcessRaisedException as error:
            if not (folder / _FAILURE).exists():
                raise
            kind, message, ranks = json.loads((folder / _FAILURE).read_text())
            raise (RankFault(message, ranks) if kind == RankFault.__name__ else _ERRORS[kind](message)) from error


def _rank(
    rank: int, n_ranks: int, parent: int, folder: Path, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    end_with(parent)
    os.environ["LOCAL_WORLD_SIZE"] = str(n_ranks)  # as torchrun does: cores are shared
    store = dist.FileStore(str(folder / "store"), n_ranks)  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=n_ranks)
    try:
        function(*arguments)
    except (UserError, InfrastructureError, Preempted) as error:
        temporary = folder / f"{_FAILURE}.{rank}"
        ranks = error.ranks if isinstance(error, RankFault) else ()
        temporary.write_text(json.dumps([type(error).__name__, str(error), ranks]))
        os.replace(temporary, folder / _FAILURE)
        raise
    dist.destroy_process_group()


def with_roll_backs(
    config: IntegrityConfig, mesh: MeshConfig, batch_rows: int, attempt: Callable[[MeshConfig], ResultT]
) -> ResultT:
    """Return `attempt(mesh)`, which goes on from the last good checkpoint; again after a RankFault if so configured.

    Where one rank of those that we start ourselves is suspected, the next attempt's layout is that much smaller. Under
    torchrun the fault is raised: its restarts begin the next attempt.
    """
    for n in range(config.max_roll_backs + 1):
        try:
            return attempt(mesh)
        except RankFault as fault:
            if config.on_mismatch == "stop" or n == config.max_roll_backs or "WORLD_SIZE" in os.environ:
                raise
            smaller = mesh.without_ranks(1, batch_rows) if len(fault.ranks) == 1 and mesh.n_processes > 1 else mesh
            if smaller is None:
                raise
            mesh = smaller
            say(f"  {fault}; going on from the last good checkpoint on {mesh.n_processes} processes")
    raise AssertionError("the last attempt returns or raises")


def cores_per_process() -> int:
    """Return how many of the cores that this process may use are its own, others of the run on this machine counted."""
    return max(default_workers() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)
