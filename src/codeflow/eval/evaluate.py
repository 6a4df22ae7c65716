"""Stage `evaluate`: scores of checkpoints with intervals, and everything they generated.

Parts: on each checkpoint held-out bits per byte and completion by level; on the last (or all) this project's own
programming tasks and, where its file is found, HumanEval; on those named, micro-tasks in the chat format, where an
artifact of them is given. Checkpoints are the inputs other than `documents`, `tokenizer` and `tasks`. Parts are made by
as many processes as there are cores; one that is finished is kept when the stage is killed. Without a sandbox the
program parts are skipped, with a remark; nothing is scored 0 for it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt, field_validator

from codeflow.core.config import Config
from codeflow.core.errors import InfrastructureError, UserError
from codeflow.core.manifest import PROGRESS, Counts, Manifest, seal
from codeflow.core.progress import say
from codeflow.core.storage import write_text
from codeflow.core.types import Document, Score
from codeflow.eval.benchmark import HUMANEVAL, benchmarks_folder, fingerprint
from codeflow.eval.benchmarks import micro_tasks
from codeflow.eval.micro_task_scores import NAME as CHAT_TASKS
from codeflow.eval.micro_task_scores import MicroTaskScoresConfig
from codeflow.execute.local import LocalPool, default_workers
from codeflow.execute.shards import run_shards
from codeflow.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from codeflow.eval.programs import ProgramTask
    from codeflow.eval.records import Part, Scorer
    from codeflow.model.looped import LoopCoder

_NOT_CHECKPOINTS = ("documents", "tokenizer", "tasks")


class EvaluateConfig(Config):
    """Sizes of every part; each is a cap."""

    benchmarks: str | None = None  # folder of official files; None: CODEFLOW_BENCHMARKS, if set
    seed: int = 0
    bootstrap_resamples: PositiveInt = 1000
    context_tokens: PositiveInt = 512
    batch_tokens: PositiveInt = 8192
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of the weights, as in training
    documents_per_domain: PositiveInt = 32
    document_characters: PositiveInt = 2500
    fim_cases_per_level: PositiveInt = 10
    fim_max_middle_characters: PositiveInt = 100
    fim_max_new_tokens: PositiveInt = 40
    fim_context_characters: PositiveInt = 1000
    task_samples: PositiveInt = 4  # per task of our own
    humaneval_tasks: PositiveInt = 164
    humaneval_samples: PositiveInt = 1
    programs_on: Literal["last", "all"] = "last"  # checkpoints that write programs: the last input, or all
    max_new_tokens: PositiveInt = 80  # of a program
    temperature: float = Field(default=0.8, ge=0)  # with one sample per task it is 0, greedy
    pass_ks: tuple[PositiveInt, ...] = (1, 4)
    generate_batch: PositiveInt = 48
    sandboxes: PositiveInt = 2  # at once
    micro_tasks: MicroTaskScoresConfig = MicroTaskScoresConfig()  # of the input `tasks`, where it is given

    @field_validator("pass_ks")
    @classmethod
    def _some(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        if not ks:
            raise ValueError("name at least one k, such as [1]")
        return ks


def world(config: EvaluateConfig) -> str:
    """Return a fingerprint of the benchmark files, and whether programs can be run here."""
    from codeflow.eval.programs import sandbox_problem

    sandbox = "absent" if sandbox_problem() else "works"
    return f"{fingerprint((HUMANEVAL,), benchmarks_folder(config.benchmarks))} sandbox:{sandbox}"


@dataclass(frozen=True)
class PartJob:
    """One benchmark on one checkpoint (or compressor): what a process needs to make it."""

    benchmark: str
    checkpoint: str
    config: EvaluateConfig
    documents: Path
    tokenizer: Path
    tasks: Path | None
    model: Path | None
    output: Path

    @property
    def name(self) -> str:
        return f"{self.benchmark}-{self.checkpoint}"

    @property
    def result(self) -> Path:
        """Where the part lies until the artifact is sealed, which removes it."""
        return self.output / PROGRESS / f"part-{self.name}.json"


def run(config: EvaluateConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Write `scores-00000.parquet` and `generations-00000.parquet`.

    Inputs: `documents` (with heldout files), `tokenizer`, any number of checkpoints by name, and micro-tasks as `tasks`
    if they are to be asked. Raises UserError when there are no checkpoints, no held-out documents or no such tasks.
    """
    from codeflow.core.records import from_row, write_records
    from codeflow.eval.records import Generated, Part

    remarks: list[str] = []
    jobs = _jobs(config, inputs, output, remarks)
    run_shards(make_part, jobs, output, "evaluate", LocalPool(workers()))
    parts: list[Part] = [from_row(Part, json.loads(job.result.read_text())) for job in jobs]
    scores = [score for part in parts for score in part.scores]
    generations = [row for part in parts for row in part.generations]
    write_records(output / "scores-00000.parquet", scores, Score)
    write_records(output / "generations-00000.parquet", generations, Generated)
    notes = {"infrastructure faults": sum(row.fault == "infrastructure" for row in generations)}
    for part in parts:
        notes |= part.counts  # of the same cases for every checkpoint
        remarks += part.remarks
    metrics = {
        "remarks": list(dict.fromkeys(remarks)),
        "backend": sorted({row.backend for row in generations if row.backend}),
        "documents": len(_documents(config, inputs["documents"])),
        "dtype": config.dtype,
    }
    return seal(output, Counts(read=len(generations), kept=len(generations), notes=notes), metrics)


def workers() -> int:
    """Return how many parts are made at once: each has one thread, which for small models beats one part with more."""
    import torch

    return 1 if torch.cuda.is_available() else default_workers()


def _jobs(config: EvaluateConfig, inputs: Mapping[str, Path], output: Path, remarks: list[str]) -> list[PartJob]:
    from codeflow.eval import bits_per_byte, fim_exact_match
    from codeflow.eval.micro_task_scores import load_tasks

    checkpoints = {name: path / "model" for name, path in inputs.items() if name not in _NOT_CHECKPOINTS}
    if not checkpoints:
        raise UserError("evaluate has no checkpoint among its inputs; give one, such as --input general=DIR")
    if not _documents(config, inputs["documents"]):
        raise UserError(f"{inputs['documents']} holds no held-out documents; raise heldout_fraction of its split stage")

    def job(benchmark: str, checkpoint: str) -> PartJob:
        model = checkpoints.get(checkpoint)
        tasks = inputs.get("tasks")
        return PartJob(benchmark, checkpoint, config, inputs["documents"], inputs["tokenizer"], tasks, model, output)

    programs = _program_benchmarks(config, remarks)
    writers = list(checkpoints) if config.programs_on == "all" else list(checkpoints)[-1:]
    jobs: list[PartJob] = []  # the longest come first
    if programs and "tasks" in inputs:
        load_tasks(inputs["tasks"], config.micro_tasks)  # says now, not after minutes, if there are none
        jobs += [job(CHAT_TASKS, checkpoint) for checkpoint in checkpoints if config.micro_tasks.asks(checkpoint)]
    jobs += [job(benchmark, checkpoint) for benchmark in programs for checkpoint in writers]
    jobs += [job(fim_exact_match.NAME, checkpoint) for checkpoint in checkpoints]
    return jobs + [job(bits_per_byte.NAME, name) for name in (*bits_per_byte.COMPRESSORS, *checkpoints)]


def _program_benchmarks(config: EvaluateConfig, remarks: list[str]) -> list[str]:
    """Return the program benchmarks that can be judged here; say why the others cannot."""
    from codeflow.eval.programs import sandbox_problem

    problem = sandbox_problem()
    if problem:
        remarks.append(f"programming tasks skipped, not scored: {problem}")
        say(f"  {remarks[-1]}")
        return []
    folder = benchmarks_folder(config.benchmarks)
    if HUMANEVAL.find(folder):
        return [HUMANEVAL.name, micro_tasks.NAME]
    remarks.append(f"not scored: {HUMANEVAL.absence(folder)}")
    return [micro_tasks.NAME]


def _documents(config: EvaluateConfig, folder: Path) -> tuple[Document, ...]:
    return _chosen(folder, config.documents_per_domain, config.document_characters)


@functools.lru_cache(maxsize=1)
def _chosen(folder: Path, per_domain: int, max_characters: int) -> tuple[Document, ...]:
    from codeflow.core.records import read_shards
    from codeflow.eval.bits_per_byte import choose

    return tuple(choose(read_shards(folder, "heldout", Document), per_domain, max_characters))


def make_part(job: PartJob) -> Counts:
    """Make one part and keep it until the artifact is sealed. A function of the job alone: it uses one thread."""
    import torch

    from codeflow.core.records import to_row

    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    write_text(job.result, json.dumps(to_row(_part(job))))
    return Counts(read=1, kept=1)


def _part(job: PartJob) -> Part:
    from codeflow.eval import bits_per_byte, fim_exact_match
    from codeflow.eval.records import Part

    documents = _documents(job.config, job.documents)
    if job.model is None:
        scorer = _scorer(job, {"per": "document"})
        return Part(tuple(bits_per_byte.compressor_scores(scorer, documents)))
    tokenizer = Tokenizer.load(job.tokenizer)
    if job.benchmark == bits_per_byte.NAME:
        return _bits_part(job, documents, tokenizer)
    if job.benchmark == fim_exact_match.NAME:
        return _fim_part(job, documents, tokenizer)
    if job.benchmark == CHAT_TASKS:
        return _chat_part(job, tokenizer)
    return _program_part(job, tokenizer)


@functools.lru_cache(maxsize=1)
def _load(folder: Path, dtype: str, vocab_size: int) -> LoopCoder:
    import torch

    from codeflow.model.huggingface import load

    model = load(folder, getattr(torch, dtype), "cuda" if torch.cuda.is_available() else "cpu")
    model.config.check_vocabulary(vocab_size)
    return model.eval()


def _model(job: PartJob, tokenizer: Tokenizer) -> tuple[LoopCoder, int]:
    """Return the job's model and the context to use."""
    assert job.model is not None
    model = _load(job.model, job.config.dtype, tokenizer.vocab_size)
    return model, min(job.config.context_tokens, model.config.max_position_embeddings)


def _scorer(job: PartJob, settings: Mapping[str, Any]) -> Scorer:
    from codeflow.eval.records import Scorer

    config = job.config
    texts = {name: str(value) for name, value in {"seed": config.seed, **settings}.items()}
    return Scorer(job.benchmark, job.checkpoint, texts, config.bootstrap_resamples, config.seed)


def _bits_part(job: PartJob, documents: Sequence[Document], tokenizer: Tokenizer) -> Part:
    from codeflow.eval import bits_per_byte
    from codeflow.eval.records import Part

    model, context = _model(job, tokenizer)
    ids = [tokenizer.encode(document.text) for document in documents]
    nats = bits_per_byte.document_nats(model, ids, context, job.config.batch_tokens)
    scorer = _scorer(job, {"context_tokens": context, "dtype": job.config.dtype, "per": "document"})
    return Part(tuple(bits_per_byte.model_scores(scorer, documents, nats)))


def _fim_part(job: PartJob, documents: Sequence[Document], tokenizer: Tokenizer) -> Part:
    from codeflow.eval import fim_exact_match
    from codeflow.eval.records import Part
    from codeflow.model.generate import GenerateSettings, generate
    from codeflow.tokens.special import END_OF_TEXT_ID, IM_END_ID

    config = job.config
    model, context = _model(job, tokenizer)
    n_new = config.fim_max_new_tokens
    sizes = fim_exact_match.Sizes(
        config.fim_max_middle_characters, config.fim_context_characters, max(context - n_new, 1), n_new
    )
    found, counts = fim_exact_match.cases(documents, tokenizer, config.fim_cases_per_level, sizes, config.seed)
    if not found:
        return Part((), counts=counts, remarks=("completion not scored: no held-out code has a place for it",))
    settings = GenerateSettings(
        max_new_tokens=n_new, stop_ids=(IM_END_ID, END_OF_TEXT_ID), max_batch=config.generate_batch
    )
    outputs = generate(model, [case.prompt for case in found], settings)
    shown = {"decoding": "greedy", "max_new_tokens": n_new, "max_middle_characters": sizes.max_middle_characters}
    scores, rows = fim_exact_match.judge(_scorer(job, shown), found, outputs, tokenizer)
    return Part(tuple(scores), tuple(rows), counts)


def _chat_part(job: PartJob, tokenizer: Tokenizer) -> Part:
    from codeflow.eval import micro_task_scores
    from codeflow.solve.rollout import Source

    assert job.tasks is not None
    model, _ = _model(job, tokenizer)
    config = job.config.micro_tasks
    tasks = micro_task_scores.load_tasks(job.tasks, config)
    scorer = _scorer(job, {**config.shown(job.checkpoint), "tasks": len(tasks)})
    source = Source(model, tokenizer, job.checkpoint, job.config.seed)
    return micro_task_scores.part(source, tasks, config, scorer)


def _program_tasks(job: PartJob) -> list[ProgramTask]:
    from codeflow.eval import programs

    if job.benchmark == micro_tasks.NAME:
        return programs.own_tasks()
    path = HUMANEVAL.find(benchmarks_folder(job.config.benchmarks))
    if path is None:
        raise InfrastructureError("the HumanEval file went away during the evaluation; put it back")
    return programs.humaneval_tasks(path, job.config.humaneval_tasks, job.config.seed)


def _program_part(job: PartJob, tokenizer: Tokenizer) -> Part:
    """Let the model write programs and judge them, if the benchmark's own gold answers pass here."""
    from codeflow.eval import programs
    from codeflow.eval.records import Part
    from codeflow.sandbox.policy import Limits

    config, tasks = job.config, _program_tasks(job)
    failed = programs.prove(tasks, Limits(), config.sandboxes)
    if failed:
        remark = f"{job.benchmark} skipped, not scored: gold answers fail here, such as that of {failed[0]}"
        return Part((), remarks=(remark,))
    n_samples = config.task_samples if job.benchmark == micro_tasks.NAME else config.humaneval_samples
    temperature = config.temperature if n_samples > 1 else 0.0
    outputs, n_cut = _write_programs(job, tokenizer, tasks, n_samples, temperature)
    checked = programs.check(tasks, outputs, Limits(wall_seconds=8, cpu_seconds=3), config.sandboxes)
    shown = {
        "samples": n_samples,
        "temperature": temperature,
        "max_new_tokens": config.max_new_tokens,
        "tasks": len(tasks),
        "prompt": "text to continue",
    }
    scores = programs.score(_scorer(job, shown), tasks, checked, config.pass_ks)
    rows = programs.rows(job.checkpoint, tasks, outputs, checked)
    counts = {f"{job.benchmark}: tasks proved by their gold answers": len(tasks)}
    if n_cut:
        counts[f"{job.benchmark}: prompts cut to the context"] = n_cut
    return Part(tuple(scores), tuple(rows), counts)


def _write_programs(
    job: PartJob, tokenizer: Tokenizer, tasks: Sequence[ProgramTask], n_samples: int, temperature: float
) -> tuple[list[list[str]], int]:
    """Return `n_samples` outputs for each task, and how many prompts were cut at their beginning to fit the context."""
    from codeflow.model.generate import GenerateSettings, generate
    from codeflow.tokens.special import END_OF_TEXT_ID, IM_END_ID

    model, context = _model(job, tokenizer)
    longest = max(context - job.config.max_new_tokens, 1)
    prompts = [tokenizer.encode(item.task.prompt) for item in tasks]
    settings = GenerateSettings(
        max_new_tokens=job.config.max_new_tokens,
        temperature=temperature,
        stop_ids=(END_OF_TEXT_ID, IM_END_ID),
        seed=job.config.seed,
        max_batch=job.config.generate_batch,
    )
    made = generate(model, [prompt[-longest:] for prompt in prompts for _ in range(n_samples)], settings)
    texts = [tokenizer.decode(one.ids[:-1] if one.stop_reason == "stop" else one.ids) for one in made]
    outputs = [texts[i : i + n_samples] for i in range(0, len(texts), n_samples)]
    return outputs, sum(len(prompt) > longest for prompt in prompts)
