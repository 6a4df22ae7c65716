"""Running a benchmark on one model: answers and judgements in files of their own, resumable sample by sample.

    generations/NAME.jsonl   one line for each (task, sample, try), written as batches are done
    judgements/NAME.jsonl    one line for each; made again when the judge's version or the answer changes

An answer is kept while model, sampling, prompt and seed are the same; whatever else changes, judging starts from it.
Infrastructure faults are judged again by the next call, counted and never scored.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt

from codeflow.core.config import Config, canonical_json
from codeflow.core.errors import UserError
from codeflow.core.progress import say
from codeflow.core.storage import make_folder, sha256_file, sha256_text
from codeflow.endpoint.transport import ServerConfig
from codeflow.eval.answers import Answer, Answerer, Question
from codeflow.eval.benchmark import Attempt, Benchmark, Judgement, Problem, Sampling, locate
from codeflow.tokens.chat import Message

_CHUNK = 64  # answers between two writes
_JUDGED_AT_ONCE = 256  # judgements between two writes
_REPAIR = "That is not right: {reason}. Answer again, in full."

Key = tuple[str, int, int]  # task, sample, try


class BenchmarkRunConfig(Config):
    """What is asked and how. None: as published for the benchmark."""

    on: tuple[str, ...] = Field(min_length=1)
    benchmarks: str | None = None  # folder or fsspec url of official files; None: CODEFLOW_BENCHMARKS
    limit: PositiveInt | None = None  # problems of each benchmark, chosen by the seed; None: all
    samples: PositiveInt | None = None
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_new_tokens: PositiveInt | None = None
    style: Literal["chat", "text"] | None = None  # text: a base model continues the prompt
    repair: bool = False  # a second try after the error's message, for benchmarks that give one only
    prove: bool = True  # judge the gold answers first
    training: str | None = None  # a documents artifact in which benchmark problems are looked for
    seed: int = 0
    sandboxes: PositiveInt = 2  # at once
    bootstrap_resamples: PositiveInt = 1000
    server: ServerConfig = ServerConfig()  # of a model behind a url
    logprobs: bool = True  # asked of such a server, for the calibration error; false where it refuses


@dataclass(frozen=True)
class Finished:
    """One benchmark's problems, answers and judgements, by (task, sample, try)."""

    benchmark: Benchmark
    style: Literal["chat", "text"]
    sampling: Sampling
    tries: int
    problems: tuple[Problem, ...]
    answers: Mapping[Key, Answer]
    judgements: Mapping[Key, Judgement]
    gold_failures: tuple[str, ...]
    prompt_sha256: str


def run_benchmark(benchmark: Benchmark, answerer: Answerer, config: BenchmarkRunConfig, output: Path) -> Finished:
    """Ask and judge one benchmark, going on from what `output` holds.

    Raises UserError when its files are missing, InfrastructureError when there is no sandbox and it needs one.
    """
    problems = _chosen(benchmark, config)
    style = config.style or benchmark.style
    given = {name: getattr(config, name) for name in Sampling.__dataclass_fields__}
    sampling = replace(benchmark.sampling, **{name: value for name, value in given.items() if value is not None})
    if style == "text" and not problems[0].text:
        raise UserError(f"{benchmark.name} has no form that a base model continues; leave style=text out")
    tries = 2 if config.repair and style == "chat" and not benchmark.conversation else 1
    tries = max(tries, benchmark.tries if style == "chat" else 1)
    failures = _gold_failures(benchmark, problems, config) if config.prove else ()
    data = " ".join(_data_fingerprint(locate(file, config.benchmarks)) for file in benchmark.files)
    work = _Work(benchmark, answerer, config, output, style, sampling, data)
    for number in range(tries):
        work.ask(problems, number)
        work.judge(problems, number)
    prompts = sha256_text(canonical_json([_prompt_text(problem, style) for problem in problems]))
    return Finished(
        *(benchmark, style, sampling, tries, tuple(problems)),
        *(work.answers, work.judgements, failures, prompts),
    )


def _data_fingerprint(path: Path) -> str:
    """Return the hash of a file, or of the names and sizes in a folder, which may hold gigabytes of databases."""
    if path.is_file():
        return sha256_file(path)
    found = sorted((one.relative_to(path).as_posix(), one.stat().st_size) for one in path.rglob("*") if one.is_file())
    return sha256_text(canonical_json(found))


def _chosen(benchmark: Benchmark, config: BenchmarkRunConfig) -> list[Problem]:
    problems = benchmark.load([locate(file, config.benchmarks) for file in benchmark.files])
    if config.limit and config.limit < len(problems):
        source = random.Random(f"{benchmark.name}/{config.seed}")
        problems = [problems[i] for i in sorted(source.sample(range(len(problems)), config.limit))]
    return problems


def _gold_failures(benchmark: Benchmark, problems: Sequence[Problem], config: BenchmarkRunConfig) -> tuple[str, ...]:
    """Return the problems whose own gold answer does not pass here."""
    proved = [problem for problem in problems if problem.gold is not None]
    attempts = [Attempt(problem, (problem.gold or "",)) for problem in proved]
    judged = benchmark.judge(attempts, config.sandboxes) if attempts else []
    failures = tuple(problem.id for problem, one in zip(proved, judged, strict=True) if not one.passed)
    if failures:
        say(f"  {benchmark.name}: {len(failures)} of {len(proved)} gold answers fail here, such as {failures[0]}")
    return failures


def _prompt_text(problem: Problem, style: str) -> str:
    return problem.text if style == "text" else canonical_json([message.as_row() for message in problem.messages])


@dataclass
class _Work:
    """The files of one benchmark and what they hold."""

    benchmark: Benchmark
    answerer: Answerer
    config: BenchmarkRunConfig
    output: Path
    style: Literal["chat", "text"]
    sampling: Sampling
    data: str  # fingerprint of the benchmark's files

    def __post_init__(self) -> None:
        self._generations = make_folder(self.output / "generations") / f"{self.benchmark.name}.jsonl"
        self._judgements = make_folder(self.output / "judgements") / f"{self.benchmark.name}.jsonl"
        self.answers: dict[Key, Answer] = {}
        self.judgements: dict[Key, Judgement] = {}
        self._known_answers = {(_key(row), row["asked"]): row for row in _rows(self._generations)}
        self._known_judgements = {(_key(row), row["judged"]): row for row in _rows(self._judgements)}

    def ask(self, problems: Sequence[Problem], attempt: int) -> None:
        """Get all answers of one try, those that are known from the file."""
        waiting: list[tuple[Key, str, Question]] = []
        for problem in problems:
            for sample in range(self.sampling.samples):
                key = (problem.id, sample, attempt)
                if attempt and not self._goes_on((problem.id, sample, attempt - 1)):
                    continue
                question = self._question(problem, sample, attempt)
                asked = self._asked(question)
                known = self._known_answers.get((key, asked))
                if known:
                    confidence = known["confidence"]
                    self.answers[key] = Answer(
                        known["output"],
                        known["stop_reason"],
                        known["n_tokens"],
                        float("nan") if confidence is None else confidence,
                    )
                else:
                    waiting.append((key, asked, question))
        if waiting:
            say(f"  {self.benchmark.name}: {len(waiting):,} answers to get, {len(self.answers):,} there")
        for first in range(0, len(waiting), _CHUNK):
            part = waiting[first : first + _CHUNK]
            made = self.answerer.answer([question for _, _, question in part], self.sampling, self.config.seed)
            self.answers |= {key: answer for (key, _, _), answer in zip(part, made, strict=True)}
            _append(self._generations, [_answer_row(key, asked, self.answers[key]) for key, asked, _ in part])

    def _goes_on(self, key: Key) -> bool:
        """Say whether another try follows: after a failure, or after a step that does not end a conversation."""
        judgement = self.judgements.get(key)
        fault = "" if self.benchmark.conversation else "model"
        return judgement is not None and not judgement.passed and judgement.fault == fault

    def _question(self, problem: Problem, sample: int, attempt: int) -> Question:
        if self.style == "text":
            return Question(problem.id, sample, (), problem.text, problem.hole)
        messages = list(problem.messages)
        for earlier in range(attempt):
            key = (problem.id, sample, earlier)
            made = self._attempt(problem, sample, earlier)
            judgement = self.judgements[key]
            follow_up = self.benchmark.follow_up
            said = follow_up(made, judgement) if follow_up else _REPAIR.format(reason=judgement.reason)
            messages += [Message("assistant", self.answers[key].text), Message("user", said)]
        return Question(f"{problem.id}#{attempt}" if attempt else problem.id, sample, tuple(messages), "")

    def _attempt(self, problem: Problem, sample: int, attempt: int) -> Attempt:
        outputs = tuple(self.answers[problem.id, sample, number].text for number in range(attempt + 1))
        return Attempt(problem, outputs, self.style)

    def _asked(self, question: Question) -> str:
        """Return the identity of an answer: whatever it depends on."""
        asked = [message.as_row() for message in question.messages] or question.text
        tree = [self.answerer.fingerprint, asdict(self.sampling) | {"samples": 0}, asked, self.config.seed]
        return sha256_text(canonical_json(tree))

    def judge(self, problems: Sequence[Problem], attempt: int) -> None:
        """Judge all answers of one try; keep judgements of the same judge on the same answers."""
        waiting: list[tuple[Key, str, Attempt]] = []
        for problem in problems:
            for sample in range(self.sampling.samples):
                key = (problem.id, sample, attempt)
                if key not in self.answers:
                    continue
                made = self._attempt(problem, sample, attempt)
                judged = sha256_text(canonical_json([self.benchmark.scorer, self.data, self.style, made.outputs]))
                known = self._known_judgements.get((key, judged))
                if known and known["fault"] != "infrastructure":
                    names = Judgement.__dataclass_fields__
                    self.judgements[key] = Judgement(**{name: known[name] for name in names})
                else:
                    waiting.append((key, judged, made))
        for first in range(0, len(waiting), _JUDGED_AT_ONCE):
            part = waiting[first : first + _JUDGED_AT_ONCE]
            made = self.benchmark.judge([one for _, _, one in part], self.config.sandboxes)
            self.judgements |= {key: judgement for (key, _, _), judgement in zip(part, made, strict=True)}
            _append(self._judgements, [_judgement_row(key, judged, self.judgements[key]) for key, judged, _ in part])


def _key(row: Mapping[str, Any]) -> Key:
    return row["task"], row["sample"], row["try"]


def _answer_row(key: Key, asked: str, answer: Answer) -> dict[str, Any]:
    confidence = None if answer.confidence != answer.confidence else answer.confidence
    fields = {"output": answer.text, "stop_reason": answer.stop_reason, "n_tokens": answer.n_tokens}
    return {"task": key[0], "sample": key[1], "try": key[2], "asked": asked, **fields, "confidence": confidence}


def _judgement_row(key: Key, judged: str, judgement: Judgement) -> dict[str, Any]:
    fields = asdict(judgement) | {"values": dict(judgement.values)}
    return {"task": key[0], "sample": key[1], "try": key[2], "judged": judged, **fields}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file; one that a kill has torn is left out."""
    if path.exists():
        for line in path.read_bytes().split(b"\n"):
            try:
                yield json.loads(line)
            except ValueError:
                continue


def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add lines and have them on the disk. A line break comes first: the line before may be torn."""
    with open(path, "ab") as file:
        file.write(b"".join(b"\n" + json.dumps(row, ensure_ascii=True).encode() for row in rows) + b"\n")
        file.flush()
        os.fsync(file.fileno())
