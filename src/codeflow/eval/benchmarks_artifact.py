"""The artifact that `codeflow evaluate MODEL --on ...` leaves: scores and generations of public benchmarks.

scores.json, scores-00000.parquet          every score with its interval
generations-00000.parquet                  every answer, from prompt to sandbox
provenance.json                            what each benchmark's scores rest on
generations/, judgements/                  what a later call goes on from (`benchmark_run.py`)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codeflow import __version__
from codeflow.core.config import Config, validate
from codeflow.core.errors import UserError
from codeflow.core.manifest import BEGIN, CONFIG, MANIFEST, Begun, Counts, InputRecord, Manifest, seal, work_key
from codeflow.core.progress import say
from codeflow.core.storage import make_folder, write_text
from codeflow.core.types import Score
from codeflow.eval import catalogue
from codeflow.eval.answers import Answer, Answerer, Question
from codeflow.eval.benchmark import Problem, Sampling, locate
from codeflow.eval.benchmark_run import BenchmarkRunConfig, Finished, run_benchmark
from codeflow.eval.benchmark_scores import compare, provenance, rows, score
from codeflow.eval.metrics import Difference

KIND = "scores"


def make(config: BenchmarkRunConfig, answerer: Answerer, output: Path) -> tuple[Manifest, list[Score]]:
    """Run the benchmarks of `config` on a model and write the artifact; what is there already is gone on from.

    The caller holds the folder's lock. Raises UserError for unknown benchmarks or missing files.
    """
    from codeflow.core.records import to_row, write_records
    from codeflow.eval.records import Generated

    wanted = catalogue.find(config.on)
    for file in (file for benchmark in wanted for file in benchmark.files):
        locate(file, config.benchmarks)  # what is missing is said before hours of work, not after
    open_again(config, {}, answerer.fingerprint, output)
    finished: list[Finished] = []
    for benchmark in wanted:
        say(f"{benchmark.name}: {answerer.name}")
        finished.append(run_benchmark(benchmark, answerer, config, output))
    scores = [one for part in finished for one in score(part, answerer.name, config.bootstrap_resamples, config.seed)]
    generations = [row for part in finished for row in rows(part, answerer.name)]
    write_records(output / "scores-00000.parquet", scores, Score)
    write_records(output / "generations-00000.parquet", generations, Generated)
    write_text(output / "scores.json", json.dumps([to_row(one) for one in scores], indent=1))
    said: dict[str, Any] = {part.benchmark.name: dict(provenance(part)) for part in finished}
    if config.training:
        found = contaminated(Path(config.training), finished)
        for part in finished:
            said[part.benchmark.name]["found_in_training"] = found[part.benchmark.name]
    shown = {"codeflow_version": __version__, "model": answerer.name, "fingerprint": answerer.fingerprint}
    write_text(output / "provenance.json", json.dumps({**shown, "benchmarks": said}, indent=1))
    n_faults = sum(row.fault == "infrastructure" for row in generations)
    counts = Counts(read=len(generations), kept=len(generations), notes={"infrastructure faults": n_faults})
    remarks = [
        f"{part.benchmark.name}: {len(part.gold_failures)} gold answers fail here"
        for part in finished
        if part.gold_failures
    ]
    backends = sorted({row.backend for row in generations if row.backend})
    return seal(output, counts, {"remarks": remarks, "backend": backends, "model": answerer.name}), scores


def open_again(config: Config, inputs: Mapping[str, InputRecord], fingerprint: str, output: Path) -> None:
    """Begin, or begin again, without removing what earlier calls have got.

    `fingerprint` is that of the model. Raises UserError for a folder with something else in it.
    """
    make_folder(output)
    if not (output / MANIFEST).exists() and not (output / BEGIN).exists() and any(output.glob("[!.]*")):
        raise UserError(f"{output} is not empty and no evaluation; give --output a new folder")
    (output / MANIFEST).unlink(missing_ok=True)
    key = work_key(KIND, config, inputs, fingerprint)
    write_text(output / CONFIG, config.model_dump_json(indent=2))
    write_text(output / BEGIN, Begun(kind=KIND, key=key, inputs=dict(inputs)).model_dump_json(indent=2))


class _Recorded:
    """Stands for the model of a finished artifact: its answers are read, none is made."""

    def __init__(self, folder: Path) -> None:
        tree = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        self.name, self.fingerprint = str(tree["model"]), str(tree["fingerprint"])

    def answer(self, questions: Sequence[Question], sampling: Sampling, seed: int) -> list[Answer]:
        raise UserError(f"the run of {self.name} lacks {len(questions)} answers; evaluate it to its end first")


def read(folder: Path, benchmarks: str | None, sandboxes: int) -> list[Finished]:
    """Return what an artifact holds, judged as ever; nothing is asked. Raises UserError when answers are missing."""
    try:
        tree = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        recorded = _Recorded(folder)
    except (OSError, ValueError, KeyError):
        raise UserError(f"{folder} holds no evaluation of benchmarks; give the --output of another run") from None
    config = validate(BenchmarkRunConfig, {**tree, "prove": False, "sandboxes": sandboxes})
    config = config.model_copy(update={"benchmarks": benchmarks or config.benchmarks})
    return [run_benchmark(one, recorded, config, folder) for one in catalogue.find(config.on)]


def differences(left: Path, right: Path, config: BenchmarkRunConfig) -> dict[str, dict[str, Difference]]:
    """Return, for each benchmark in both artifacts, the paired differences right - left."""
    first, second = (
        {part.benchmark.name: part for part in read(folder, config.benchmarks, config.sandboxes)}
        for folder in (left, right)
    )
    return {
        name: compare(first[name], second[name], config.bootstrap_resamples, config.seed)
        for name in second
        if name in first
    }


def contaminated(documents: Path, finished: Sequence[Finished]) -> dict[str, list[str]]:
    """Return, by benchmark, the problems whose question or gold answer stands in a training artifact's documents.

    By the n-gram, MinHash and fuzzy tests of decontamination. Raises UserError when the artifact holds no documents.
    """
    import pyarrow.parquet as pq

    from codeflow.core.records import shards
    from codeflow.core.types import Prompt
    from codeflow.transform.contamination import build_index, find_matches
    from codeflow.transform.decontaminate import DecontaminateConfig
    from codeflow.transform.fingerprints import string_buffers

    files = shards(documents, "documents")
    if not files:
        raise UserError(f"{documents} holds no documents-*.parquet; give the training documents' artifact")
    prompts = tuple(
        Prompt(problem.id, part.benchmark.name, _question(problem), problem.gold or "")
        for part in finished
        for problem in part.problems
    )
    rule = DecontaminateConfig()
    index = build_index(prompts, rule)
    found: dict[str, set[str]] = {part.benchmark.name: set() for part in finished}
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1024, columns=["text"]):
                for match in find_matches(*string_buffers(batch.column("text")), index, rule):
                    found[match.prompt.benchmark].add(match.prompt.id)
    return {name: sorted(ids) for name, ids in found.items()}


def _question(problem: Problem) -> str:
    asked = [message.content for message in problem.messages if message.role == "user"]
    return problem.text or "\n".join(asked)
