"""Jobs as Ray tasks, on a running cluster or on one that is started here: the same functions, the same files.

The driver and all nodes must see the artifacts under the same paths (a shared disk), and have the same code and
packages. What comes back over the network is a job's counts. Retrying is `run_shards`'s business, not Ray's, so that
it is counted in one place.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from codeflow.core.errors import InfrastructureError, UserError
from codeflow.core.manifest import Counts
from codeflow.execute.local import default_workers
from codeflow.execute.pool import JobT, Outcome, Outcomes, Pool, in_this_process

_IN_FLIGHT = 1000  # tasks that the cluster knows of at a time
_PATIENCE_SECONDS = 60  # with tasks that were told to stop
_STORE_BYTES = 80_000_000  # of a cluster that is started here; Ray's least, as only counts are stored
_QUIET = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}


@dataclass(frozen=True)
class RayPool:
    """A Ray cluster."""

    address: str  # "HOST:PORT" of its head, or "auto": the one that runs on this machine
    inline: bool = True  # small work is done in this process

    def outcomes(self, work: Callable[[JobT], Counts], jobs: Sequence[JobT], small: bool = False) -> Outcomes[JobT]:
        """See `Pool`. A task whose node or process dies has Ray's error as its outcome."""
        if small and self.inline:
            yield from in_this_process(work, jobs)
            return
        ray = connected(self.address)
        task = ray.remote(max_retries=0, num_cpus=1)(_run)
        folder, waiting = os.getcwd(), iter(jobs)
        running: dict[Any, JobT] = {}
        try:
            while True:
                for job in islice(waiting, _IN_FLIGHT - len(running)):
                    running[task.remote(folder, work, job)] = job
                if not running:
                    return
                finished, _ = ray.wait(list(running), num_returns=1)
                for reference in finished:
                    yield running.pop(reference), _outcome(ray, reference)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=_PATIENCE_SECONDS)

    @contextmanager
    def kept(self) -> Iterator[Pool]:
        """See `Pool`: the cluster keeps its processes anyway."""
        yield self


def _run(folder: str, work: Callable[[JobT], Counts], job: JobT) -> Counts:
    """Work in the driver's folder, as paths may be relative to it."""
    os.chdir(folder)
    return work(job)


def _outcome(ray: Any, reference: Any) -> Outcome:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # the function's own exception, wrapped
        return error.cause if isinstance(error.cause, Exception) else error
    except ray.exceptions.RayError as error:
        return error


@contextmanager
def cluster(address: str) -> Iterator[RayPool]:
    """Yield the pool of the cluster at `address`; "" starts one on this machine, which ends with the block.

    Raises UserError when Ray is not installed or no cluster answers, InfrastructureError when none can be started.
    """
    if address:
        connected(address)
        yield RayPool(address)
        return
    ray = _library()
    options = {"num_cpus": default_workers(), "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    try:
        ray.init("local", **options, **_QUIET)
    except Exception as error:  # Ray's own: a bare Exception when a part of it has not come up in time
        ray.shutdown()
        raise InfrastructureError(
            f"Ray did not start on this machine ({_first_line(error)}); give the command again, or use --on local"
        ) from None
    try:
        yield RayPool(ray.get_runtime_context().gcs_address)
    finally:
        ray.shutdown()


def connected(address: str) -> Any:
    """Return the library `ray`, connected to a cluster."""
    ray = _library()
    if not ray.is_initialized():
        try:
            ray.init(address, **_QUIET)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"no Ray cluster answers at '{address}' ({_first_line(error)}); "
                "start one with `ray start --head`, or use --on ray"
            ) from None
    return ray


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _library() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or it reports home
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise UserError(
            "running on Ray needs the package ray; pip install 'codeflow[ray]', or use --on local"
        ) from None
