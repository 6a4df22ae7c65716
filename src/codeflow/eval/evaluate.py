"""Stage `evaluate`: scores of checkpoints with intervals, and everything they generated.

Parts, each on each checkpoint: held-out bits per byte, completion by level, this project's own programming tasks and,
where its file is found, HumanEval. Checkpoints are the inputs that are neither `documents` nor `tokenizer`. A part that
is finished is kept when the stage is killed. Without a sandbox the program parts are skipped, with a remark; nothing is
scored 0 for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt, field_validator

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.core.manifest import PROGRESS, Counts, Manifest, seal
from codeflow.core.progress import Bar, say
from codeflow.core.storage import write_text
from codeflow.core.types import Document, Score, Task
from codeflow.eval.benchmark import HUMANEVAL, benchmarks_folder, fingerprint
from codeflow.eval.micro_task_scores import NAME as CHAT_TASKS
from codeflow.eval.micro_task_scores import MicroTaskScoresConfig

if TYPE_CHECKING:
    from codeflow.eval.programs import ProgramTask
    from codeflow.eval.records import Part, Scorer
    from codeflow.model.looped import LoopCoder
    from codeflow.tokens.tokenizer import Tokenizer

_NOT_CHECKPOINTS = ("documents", "tokenizer", "tasks")


class EvaluateConfig(Config):
    """Sizes of every part; each is a cap."""

    benchmarks: str | None = None  # folder of official files; None: CODEFLOW_BENCHMARKS, if set
    seed: int = 0
    bootstrap_resamples: PositiveInt = 1000
    context_tokens: PositiveInt = 512
    batch_tokens: PositiveInt = 8192
    dtype: Literal["float32", "bfloat16"] = "float32"
    documents_per_domain: PositiveInt = 48
    document_characters: PositiveInt = 4000
    fim_cases_per_level: PositiveInt = 12
    fim_max_middle_characters: PositiveInt = 100
    fim_context_characters: PositiveInt = 1000
    task_samples: PositiveInt = 4  # per task of our own
    humaneval_tasks: PositiveInt = 164
    humaneval_samples: PositiveInt = 1
    max_new_tokens: PositiveInt = 96
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
class _Inputs:
    """What every part reads."""

    config: EvaluateConfig
    documents: tuple[Document, ...]
    tokenizer: Tokenizer
    tasks: Mapping[str, Sequence[ProgramTask]]  # by benchmark; empty where programs cannot be run
    chat_tasks: Sequence[Task] = ()  # empty where none are given or programs cannot be run


def run(config: EvaluateConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Write `scores-00000.parquet` and `generations-00000.parquet`.

    Inputs: `documents` (with heldout files), `tokenizer`, and any number of checkpoints by name. Raises UserError when
    there are no checkpoints or no held-out documents.
    """
    from codeflow.core.records import write_records
    from codeflow.eval.records import Generated

    checkpoints = {name: path for name, path in inputs.items() if name not in _NOT_CHECKPOINTS}
    if not checkpoints:
        raise UserError("evaluate has no checkpoint among its inputs; give one, such as --input general=DIR")
    remarks: list[str] = []
    read = _read(config, inputs, remarks)
    parts = _compressor_parts(read, output)
    for checkpoint, folder in checkpoints.items():
        parts += _checkpoint_parts(read, checkpoint, folder, output)
    scores = [score for part in parts for score in part.scores]
    generations = [row for part in parts for row in part.generations]
    write_records(output / "scores-00000.parquet", scores, Score)
    write_records(output / "generations-00000.parquet", generations, Generated)
    counts: dict[str, int] = {}
    for part in parts:
        counts |= part.counts
        remarks += part.remarks
    n_faults = sum(row.fault == "infrastructure" for row in generations)
    notes = counts | {"infrastructure faults": n_faults}
    metrics = {
        "remarks": list(dict.fromkeys(remarks)),
        "backend": sorted({row.backend for row in generations if row.backend}),
        "documents": len(read.documents),
        "tasks": {name: len(tasks) for name, tasks in read.tasks.items()},
        "dtype": config.dtype,
    }
    return seal(output, Counts(read=len(generations), kept=len(generations), notes=notes), metrics)


def _read(config: EvaluateConfig, inputs: Mapping[str, Path], remarks: list[str]) -> _Inputs:
    from codeflow.core.records import read_shards
    from codeflow.eval.bits_per_byte import choose
    from codeflow.eval.micro_task_scores import load_tasks
    from codeflow.tokens.tokenizer import Tokenizer

    chosen = choose(
        read_shards(inputs["documents"], "heldout", Document), config.documents_per_domain, config.document_characters
    )
    if not chosen:
        raise UserError(f"{inputs['documents']} holds no held-out documents; raise heldout_fraction of its split stage")
    tasks = _tasks(config, remarks)
    chat_tasks = load_tasks(inputs["tasks"], config.micro_tasks) if "tasks" in inputs and tasks else ()
    return _Inputs(config, tuple(chosen), Tokenizer.load(inputs["tokenizer"]), tasks, chat_tasks)


def _tasks(config: EvaluateConfig, remarks: list[str]) -> dict[str, Sequence[ProgramTask]]:
    """Return the program tasks that can be judged here, each benchmark proved by its own gold answers."""
    from codeflow.eval import programs
    from codeflow.sandbox.policy import Limits

    problem = programs.sandbox_problem()
    if problem:
        remarks.append(f"programming tasks skipped, not scored: {problem}")
        say(f"  {remarks[-1]}")
        return {}
    tasks: dict[str, Sequence[ProgramTask]] = {"micro_tasks": programs.own_tasks()}
    folder = benchmarks_folder(config.benchmarks)
    path = HUMANEVAL.find(folder)
    if path:
        tasks["humaneval"] = programs.humaneval_tasks(path, config.humaneval_tasks, config.seed)
    else:
        remarks.append(f"not scored: {HUMANEVAL.absence(folder)}")
    for name, found in list(tasks.items()):
        failed = programs.prove(found, Limits(), config.sandboxes)
        if failed:
            remarks.append(f"{name} skipped, not scored: gold answers fail here, such as that of {failed[0]}")
            del tasks[name]
    return tasks


def _compressor_parts(read: _Inputs, output: Path) -> list[Part]:
    from codeflow.eval import bits_per_byte
    from codeflow.eval.records import Part

    parts: list[Part] = []
    for name in bits_per_byte.COMPRESSORS:
        scorer = _scorer(read, bits_per_byte.NAME, name, {"per": "document"})

        def make(scorer: Scorer = scorer) -> Part:
            return Part(tuple(bits_per_byte.compressor_scores(scorer, read.documents)))

        parts.append(_kept(output, f"{bits_per_byte.NAME}-{name}", make))
    return parts


def _checkpoint_parts(read: _Inputs, checkpoint: str, folder: Path, output: Path) -> list[Part]:
    """Make the parts of one checkpoint; its model is loaded when the first missing part needs it."""
    from codeflow.eval import bits_per_byte, fim_exact_match

    loaded: list[LoopCoder] = []

    def model() -> LoopCoder:
        if not loaded:
            loaded.append(_load(folder / "model", read))
        return loaded[0]

    names = [bits_per_byte.NAME, fim_exact_match.NAME, *read.tasks]
    if read.chat_tasks and read.config.micro_tasks.asks(checkpoint):
        names.append(CHAT_TASKS)
    parts: list[Part] = []
    with Bar(f"evaluate {checkpoint}", len(names), "parts") as bar:
        for name in names:

            def make(name: str = name) -> Part:
                if name == bits_per_byte.NAME:
                    return _bits_part(read, checkpoint, model())
                if name == fim_exact_match.NAME:
                    return _fim_part(read, checkpoint, model())
                if name == CHAT_TASKS:
                    return _chat_part(read, checkpoint, model())
                return _program_part(read, name, checkpoint, model())

            parts.append(_kept(output, f"{name}-{checkpoint}", make))
            bar.advance(remark=name)
    return parts


def _load(folder: Path, read: _Inputs) -> LoopCoder:
    import torch

    from codeflow.model.huggingface import load

    model = load(folder, getattr(torch, read.config.dtype), "cuda" if torch.cuda.is_available() else "cpu")
    model.config.check_vocabulary(read.tokenizer.vocab_size)
    return model.eval()


def _context(read: _Inputs, model: LoopCoder) -> int:
    return min(read.config.context_tokens, model.config.max_position_embeddings)


def _scorer(read: _Inputs, benchmark: str, checkpoint: str, settings: Mapping[str, Any]) -> Scorer:
    from codeflow.eval.records import Scorer

    config = read.config
    texts = {name: str(value) for name, value in {"seed": config.seed, **settings}.items()}
    return Scorer(benchmark, checkpoint, texts, config.bootstrap_resamples, config.seed)


def _bits_part(read: _Inputs, checkpoint: str, model: LoopCoder) -> Part:
    from codeflow.eval import bits_per_byte
    from codeflow.eval.records import Part

    context = _context(read, model)
    ids = read.tokenizer.encode_batch([document.text for document in read.documents])
    nats = bits_per_byte.document_nats(model, ids, context, read.config.batch_tokens)
    settings = {"context_tokens": context, "dtype": read.config.dtype, "per": "document"}
    scorer = _scorer(read, bits_per_byte.NAME, checkpoint, settings)
    return Part(tuple(bits_per_byte.model_scores(scorer, read.documents, nats)))


def _fim_part(read: _Inputs, checkpoint: str, model: LoopCoder) -> Part:
    from codeflow.eval import fim_exact_match
    from codeflow.eval.records import Part
    from codeflow.model.generate import GenerateSettings, generate
    from codeflow.tokens.special import END_OF_TEXT_ID, IM_END_ID

    config = read.config
    context, n_new = _context(read, model), config.max_new_tokens
    sizes = fim_exact_match.Sizes(
        config.fim_max_middle_characters, config.fim_context_characters, max(context - n_new, 1), n_new
    )
    found, counts = fim_exact_match.cases(
        read.documents, read.tokenizer, config.fim_cases_per_level, sizes, config.seed
    )
    if not found:
        return Part((), counts=counts, remarks=("completion not scored: no held-out code has a place for it",))
    settings = GenerateSettings(
        max_new_tokens=n_new, stop_ids=(IM_END_ID, END_OF_TEXT_ID), max_batch=config.generate_batch
    )
    outputs = generate(model, [case.prompt for case in found], settings)
    shown = {"decoding": "greedy", "max_new_tokens": n_new, "max_middle_characters": sizes.max_middle_characters}
    scorer = _scorer(read, fim_exact_match.NAME, checkpoint, shown)
    scores, rows = fim_exact_match.judge(scorer, found, outputs, read.tokenizer)
    return Part(tuple(scores), tuple(rows), counts)


def _program_part(read: _Inputs, benchmark: str, checkpoint: str, model: LoopCoder) -> Part:
    from codeflow.eval import programs
    from codeflow.eval.records import Part
    from codeflow.model.generate import GenerateSettings, generate
    from codeflow.sandbox.policy import Limits
    from codeflow.tokens.special import END_OF_TEXT_ID, IM_END_ID

    config, tasks = read.config, read.tasks[benchmark]
    n_samples = config.humaneval_samples if benchmark == "humaneval" else config.task_samples
    temperature = config.temperature if n_samples > 1 else 0.0
    longest = max(_context(read, model) - config.max_new_tokens, 1)
    prompts = [read.tokenizer.encode(item.task.prompt) for item in tasks]
    n_cut = sum(len(prompt) > longest for prompt in prompts)
    prompts = [prompt[-longest:] for prompt in prompts]
    settings = GenerateSettings(
        max_new_tokens=config.max_new_tokens,
        temperature=temperature,
        stop_ids=(END_OF_TEXT_ID, IM_END_ID),
        seed=config.seed,
        max_batch=config.generate_batch,
    )
    made = generate(model, [prompt for prompt in prompts for _ in range(n_samples)], settings)
    texts = [read.tokenizer.decode(one.ids[:-1] if one.stop_reason == "stop" else one.ids) for one in made]
    outputs = [texts[i : i + n_samples] for i in range(0, len(texts), n_samples)]
    checked = programs.check(tasks, outputs, Limits(wall_seconds=8, cpu_seconds=3), config.sandboxes)
    shown = {
        "samples": n_samples,
        "temperature": temperature,
        "max_new_tokens": config.max_new_tokens,
        "tasks": len(tasks),
        "prompt": "text to continue",
    }
    scorer = _scorer(read, benchmark, checkpoint, shown)
    scores = programs.score(scorer, tasks, checked, config.pass_ks)
    counts = {f"{benchmark}: prompts cut to the context": n_cut}
    return Part(tuple(scores), tuple(programs.rows(checkpoint, tasks, outputs, checked)), counts)


def _chat_part(read: _Inputs, checkpoint: str, model: LoopCoder) -> Part:
    from codeflow.eval import micro_task_scores
    from codeflow.solve.rollout import Source

    config = read.config.micro_tasks
    scorer = _scorer(read, CHAT_TASKS, checkpoint, {**config.shown(checkpoint), "tasks": len(read.chat_tasks)})
    source = Source(model, read.tokenizer, checkpoint, read.config.seed)
    return micro_task_scores.part(source, read.chat_tasks, config, scorer)


def _kept(output: Path, name: str, make: Any) -> Part:
    """Return a part made by an earlier, killed attempt, or make it and keep it until the artifact is sealed."""
    from codeflow.core.records import from_row, to_row
    from codeflow.eval.records import Part

    path = output / PROGRESS / f"{name}.json"
    if not path.exists():
        write_text(path, json.dumps(to_row(make())))
    return from_row(Part, json.loads(path.read_text()))
