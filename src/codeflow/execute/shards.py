"""One function over many shards: skip what is done, retry, merge counts.

A job is a frozen, picklable object with a `name` that is unique within its artifact; the function writes the job's
files (atomically) and returns its counts. The outcome depends only on the jobs, never on where they run, how many at
a time, or in which order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from pydantic import ValidationError

from codeflow.core.errors import InfrastructureError, UserError
from codeflow.core.manifest import PROGRESS, Counts
from codeflow.core.progress import Bar, say
from codeflow.core.storage import make_folder, write_note
from codeflow.execute.local import THIS_MACHINE
from codeflow.execute.pool import Alone, JobT, Pool, is_final

RAY_ADDRESS = "RAY_ADDRESS"  # Ray's own variable
_NAMED = 5  # failing shards that an error names, reasons of drops that progress does


@contextmanager
def pool_on(where: str) -> Iterator[Pool]:
    """Yield the pool that `where` names; what was started for it ends with the block.

    local: processes of this machine. ray: the Ray cluster that the variable RAY_ADDRESS names, else one that is started
    on this machine. ray:HOST:PORT and ray:auto: a cluster that runs. Raises UserError for anything else.
    """
    kind, _, address = where.partition(":")
    if where == "local":
        yield THIS_MACHINE
    elif kind == "ray":
        from codeflow.execute.ray import cluster

        with cluster(address or os.environ.get(RAY_ADDRESS, "")) as pool:
            yield pool
    else:
        raise UserError(f"--on {where}: choose local, ray, or ray:HOST:PORT")


def run_shards(
    work: Callable[[JobT], Counts],
    jobs: Sequence[JobT],
    output: Path,
    label: str,
    pool: Pool = THIS_MACHINE,
    small: bool = False,
    retries: int = 1,
) -> Counts:
    """Run `work` over `jobs` in `pool`; return the merged counts.

    A finished job leaves `progress/<name>.json` under `output` and is skipped by the next run. A job that fails with
    an ordinary exception, or whose process dies, is tried again `retries` times, when the others are done; then
    InfrastructureError names it and what it read. UserErrors are not retried. `small`: see `Pool.outcomes`. Progress
    says how many bytes of files are read a second where jobs say how many are theirs (`n_bytes`).
    """
    folder = make_folder(output / PROGRESS)
    done = {job.name: folder / f"{job.name}.json" for job in jobs}
    assert len(done) == len(jobs), "job names must be unique"
    finished = {name: counts for name, path in done.items() if (counts := _finished(path)) is not None}
    waiting = [job for job in jobs if job.name not in finished]
    attempts, fresh, n_bytes = 0, Counts(), 0
    with Bar(label, len(jobs), "shards") as bar:
        bar.already(len(jobs) - len(waiting))
        while waiting:
            failed: list[tuple[JobT, Exception]] = []
            with closing(pool.outcomes(Alone(work, folder), waiting, small)) as outcomes:
                for job, outcome in outcomes:
                    if isinstance(outcome, Counts):
                        write_note(done[job.name], outcome.model_dump_json())  # its files are synced
                        finished[job.name] = outcome
                        fresh, n_bytes = fresh + outcome, n_bytes + _n_bytes(job)
                        bar.advance(remark=_remark(fresh, bar.seconds, n_bytes))
                    elif is_final(outcome):
                        raise outcome
                    else:
                        failed.append((job, outcome))
            failed.sort(key=lambda failure: failure[0].name)
            if failed and attempts == retries:
                raise _report(label, len(jobs), failed, attempts + 1) from failed[0][1]
            for job, error in failed:
                say(f"  {label}: trying shard {_described(job)} again after {_short(error)}")
            waiting, attempts = [job for job, _ in failed], attempts + 1
    total = Counts()
    for name in done:
        total = total + finished[name]
    return total


def _finished(path: Path) -> Counts | None:
    """Return the counts of a finished job; None where there are none, or a crash of the machine has cut them off."""
    try:
        return Counts.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _n_bytes(job: object) -> int:
    """Return the bytes of the files that a job reads where it says so and they are there."""
    try:
        return getattr(job, "n_bytes", 0)
    except OSError:
        return 0


def _remark(counts: Counts, seconds: float, n_bytes: int = 0) -> str:
    """Return what this run has read so far, how fast, and what it has dropped, the commonest reasons first."""
    if not counts.read:
        return ""
    seconds = max(seconds, 1e-3)
    files = f", {n_bytes / 1e6 / seconds:,.1f} MB/s of files" if n_bytes else ""
    text = f"read {counts.read:,} ({counts.read / seconds:,.0f}/s{files})"
    if not counts.dropped:
        return text
    reasons = sorted(counts.dropped.items(), key=lambda item: (-item[1], item[0]))
    named = [f"{reason} {n:,}" for reason, n in reasons[:_NAMED]]
    more = [f"{len(reasons) - _NAMED} more reasons"] if len(reasons) > _NAMED else []
    return f"{text}, dropped {sum(counts.dropped.values()):,}: {', '.join(named + more)}"


def _report(label: str, n_jobs: int, failed: Sequence[tuple[JobT, Exception]], attempts: int) -> InfrastructureError:
    named = [f"{_described(job)}: {_short(error)}" for job, error in failed[:_NAMED]]
    more = f"; and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
    return InfrastructureError(
        f"{label}: {len(failed)} of {n_jobs} shards failed {attempts} times, the others are done; "
        f"{'; '.join(named)}{more}"
    )


def _described(job: object) -> str:
    """Return a job's name, and what it reads where it says so."""
    name, reads = getattr(job, "name", ""), getattr(job, "reads", "") or getattr(job, "source", "")
    return f"{name} ({reads})" if reads else name


def _short(error: Exception) -> str:
    """Return an error's kind and first line."""
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")
