"""What a run's artifacts say, gathered as plain data. Nothing is computed here that an artifact does not hold."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from codeflow.core.manifest import CONFIG, RUN, Manifest, read_manifest
from codeflow.core.metrics import read_metrics
from codeflow.core.records import read_records, read_shards, shards
from codeflow.core.types import Document, DroppedDocument, Rollout, Score, Task, Triplet

METRICS, TIMING = "metrics.jsonl", ".timing.jsonl"
Artifacts = Mapping[str, "Artifact"]


@dataclass(frozen=True)
class Artifact:
    """One finished stage of the run."""

    name: str
    folder: Path
    manifest: Manifest
    config: Mapping[str, Any]
    run: Mapping[str, Any]  # seconds, peak memory; empty for an artifact that was copied in

    @property
    def short(self) -> str:
        """The fingerprint's first characters, as the page cites it."""
        return self.manifest.fingerprint[:10]

    @property
    def remarks(self) -> list[str]:
        """What the stage had to say in words."""
        return list(self.manifest.metrics.get("remarks", []))

    @property
    def start(self) -> str:
        """The name of the checkpoint that training went on from; "" where there is none."""
        inputs = self.manifest.inputs
        record = inputs.get("parent") or inputs.get("checkpoint")
        return Path(record.path).name if record else ""


def read_artifact(name: str, folder: Path) -> Artifact:
    """Read the small files of an artifact."""

    def load(file: str) -> Mapping[str, Any]:
        return json.loads((folder / file).read_text()) if (folder / file).exists() else {}

    return Artifact(name, folder, read_manifest(folder), load(CONFIG), load(RUN))


def of_kind(artifacts: Artifacts, kind: str) -> list[Artifact]:
    """Return the artifacts of a kind, in the chain's order."""
    return [artifact for artifact in artifacts.values() if artifact.manifest.kind == kind]


def phases(artifacts: Artifacts) -> list[Artifact]:
    """Return the checkpoints that a training phase made: those trained on a mixture of token sets."""
    return [a for a in of_kind(artifacts, "checkpoint") if "mixture" in a.config and (a.folder / METRICS).exists()]


def weights_of(phase: Artifact) -> dict[str, float]:
    """Return a phase's weights by set as its configuration has them, groups multiplied out; they sum to 1."""

    def of(mixture: Mapping[str, Any], share: float) -> dict[str, float]:
        weights = {name: part["weight"] if isinstance(part, dict) else part for name, part in mixture.items()}
        total = sum(weights.values()) or 1.0
        found: dict[str, float] = {}
        for name, part in mixture.items():
            whole = share * weights[name] / total
            found |= of(part["of"], whole) if isinstance(part, dict) else {name: whole}
        return found

    return of(phase.config["mixture"], 1.0)


def drawn_shares(phase: Artifact, names: Collection[str]) -> dict[str, float]:
    """Return which part of the rows that a phase drew from the sets `names` came from each."""
    sets = phase.manifest.metrics.get("sets", {})
    rows = {name: sets[name]["rows"] for name in names if name in sets}
    return {name: n / max(sum(rows.values()), 1) for name, n in rows.items()}


def folds(artifacts: Artifacts) -> list[Artifact]:
    """Return the checkpoints that were made by folding, not by training."""
    return [a for a in of_kind(artifacts, "checkpoint") if "losses" in a.manifest.metrics]


def reinforced(artifacts: Artifacts) -> list[Artifact]:
    """Return the checkpoints that reinforcement learning made."""
    return [a for a in of_kind(artifacts, "checkpoint") if "reward" in a.config]


def dropped_examples(artifact: Artifact, per_reason: int, characters: int) -> dict[str, list[dict[str, str]]]:
    """Return up to `per_reason` dropped documents for each reason, cut to `characters`."""
    found: dict[str, list[dict[str, str]]] = {}
    for path in shards(artifact.folder, "dropped"):
        for record in read_records(path, DroppedDocument):
            reason = f"{record.operator}/{record.reason}"
            examples = found.setdefault(reason, [])
            if len(examples) < per_reason:
                text = record.document.text
                examples.append(
                    {
                        "where": f"{record.document.origin.repository} / {record.document.origin.path}",
                        "licence": record.document.origin.licence or "no licence found",
                        "detail": record.detail,
                        "text": text[:characters] + ("…" if len(text) > characters else ""),
                    }
                )
    return dict(sorted(found.items()))


def documents_by(artifact: Artifact) -> dict[str, dict[str, list[int]]]:
    """Return documents and bytes by language and by licence: {"language": {name: [documents, bytes]}, ...}."""
    table: dict[str, dict[str, list[int]]] = {"language": {}, "licence": {}}
    for path in shards(artifact.folder, "documents"):
        for row in read_records(path, Document, columns=["text", "language", "origin"]):
            assert isinstance(row, dict)
            n_bytes = len(row["text"].encode())
            for key, value in (("language", row["language"]), ("licence", row["origin"]["licence"] or "none found")):
                entry = table[key].setdefault(value, [0, 0])
                entry[0] += 1
                entry[1] += n_bytes
    return {key: dict(sorted(value.items(), key=lambda item: -item[1][1])) for key, value in table.items()}


def curve(artifact: Artifact) -> list[dict[str, Any]]:
    """Return the training steps of a checkpoint artifact: reproducible values joined with timings by step."""
    timing = artifact.folder / TIMING
    timed = {row["step"]: row for row in read_metrics(timing)} if timing.exists() else {}
    return [{**timed.get(row["step"], {}), **row} for row in read_metrics(artifact.folder / METRICS)]


def scores(artifact: Artifact) -> list[Score]:
    """Return the scores of a scores artifact."""
    return list(read_shards(artifact.folder, "scores", Score))


def scores_by_stage(artifacts: Artifacts) -> dict[str, list[Score]]:
    """Return all scores over whole benchmarks by the stage that made the checkpoint, in the chain's order.

    What is no checkpoint (a compressor) keeps its name, and comes last.
    """
    found: dict[str, list[Score]] = {name: [] for name in artifacts}
    for artifact in of_kind(artifacts, "scores"):
        stage_of = {name: Path(record.path).name for name, record in artifact.manifest.inputs.items()}
        for score in scores(artifact):
            if not score.subset:
                found.setdefault(stage_of.get(score.checkpoint, score.checkpoint), []).append(score)
    return {name: rows for name, rows in found.items() if rows}


def rollouts(artifact: Artifact, last: bool, n_steps: int = 3) -> list[Rollout]:
    """Return the rollouts of a run's first `n_steps` steps, or of its last ones, the last step first."""
    files = shards(artifact.folder, "rollouts")
    files = files[::-1][:n_steps] if last else files[:n_steps]
    return [record for path in files for record in read_records(path, Rollout)]


def tasks(artifact: Artifact, artifacts: Artifacts) -> dict[str, Task]:
    """Return by id the tasks that a run of reinforcement learning was given."""
    record = artifact.manifest.inputs.get("tasks")
    source = artifacts.get(Path(record.path).name) if record else None
    if source is None:
        return {}
    return {task.id: task for task in read_shards(source.folder, f"tasks-{artifact.config['split']}", Task)}


def triplets(artifact: Artifact, n: int) -> list[Triplet]:
    """Return the first `n` triplets."""
    found: list[Triplet] = []
    for record in read_shards(artifact.folder, "triplets", Triplet):
        if len(found) == n:
            break
        found.append(record)
    return found


def generations(artifact: Artifact) -> Iterator[dict[str, Any]]:
    """Yield the rows of a scores artifact's generations."""
    import pyarrow.parquet as pq

    for path in shards(artifact.folder, "generations"):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()


@dataclass(frozen=True)
class Clock:
    """When stages ran, in seconds during which any stage ran: pauses between runs are left out."""

    seconds: float
    starts: Mapping[str, float]


def busy(artifacts: Artifacts) -> Clock:
    """Return how long any stage ran: stages run beside each other, so their seconds add up to more.

    Starts are recorded to the second.
    """
    ran = [(_started(a), float(a.run["seconds"]), name) for name, a in artifacts.items() if a.run.get("started_at")]
    total, end, starts = 0.0, float("-inf"), {}
    for start, seconds, name in sorted(ran):
        starts[name] = total - max(end - start, 0.0)
        total += max(start + seconds - max(end, start), 0.0)
        end = max(end, start + seconds)
    return Clock(total, starts)


def _started(artifact: Artifact) -> float:
    return datetime.fromisoformat(artifact.run["started_at"]).timestamp()
