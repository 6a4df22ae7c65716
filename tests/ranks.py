"""Worlds of processes for the tests: a function runs once on every rank, and what fails there fails here."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_PATIENCE_SECONDS = 600


def run_ranks(n_ranks: int, folder: Path, function: Callable[..., None], *arguments: Any) -> None:
    """Run `function(*arguments)` on `n_ranks` processes of one gloo world; raise what the first failing rank raised.

    A server process imports torch once, and every rank is a fork of it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.ranks", function.__module__])
    ranks = [
        context.Process(target=_rank, args=(rank, n_ranks, folder, function, arguments)) for rank in range(n_ranks)
    ]
    for process in ranks:
        process.start()
    late: list[int] = []
    for rank, process in enumerate(ranks):
        process.join(_PATIENCE_SECONDS)
        if process.is_alive():
            late.append(rank)
            process.kill()
    failures = sorted(folder.glob("failure_of_rank_*"), key=lambda path: path.stat().st_mtime_ns)
    assert not late, f"rank {late[0]} of {n_ranks} was not done after {_PATIENCE_SECONDS} seconds"
    assert not failures, failures[0].read_text()
    assert [process.exitcode for process in ranks] == [0] * n_ranks


def _rank(rank: int, n_ranks: int, folder: Path, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    try:
        torch.set_num_threads(1)
        store = dist.FileStore(str(folder / f"store_of_{n_ranks}"), n_ranks)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=n_ranks)
        function(*arguments)
        dist.destroy_process_group()
    except BaseException:
        (folder / f"failure_of_rank_{rank}").write_text(f"rank {rank} of {n_ranks}\n{traceback.format_exc()}")
        os._exit(1)
