"""Stage `prompts`: the prompts and solutions of all benchmarks at hand, as contamination to be kept out of corpora.

Official files are looked for in the folder named by the field `benchmarks` or `CODEFLOW_BENCHMARKS`; what is absent is
said in the manifest's remarks, and this project's own tasks are always there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from codeflow.core.config import Config, canonical_json
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.storage import sha256_text
from codeflow.core.types import Prompt
from codeflow.eval.benchmark import CRUXEVAL, HUMANEVAL, benchmarks_folder, fingerprint
from codeflow.eval.benchmarks import cruxeval, humaneval, micro_tasks
from codeflow.eval.benchmarks.project_completion import NAME as PROJECT_COMPLETION
from codeflow.eval.tested_projects import cuts, projects

_FILES = (HUMANEVAL, CRUXEVAL)


class PromptsConfig(Config):
    """Which folder holds official benchmark files; None: the environment's `CODEFLOW_BENCHMARKS`, if set."""

    benchmarks: str | None = None


def world(config: PromptsConfig) -> str:
    """Return a fingerprint of the benchmark files and of this project's own tasks."""
    folder = benchmarks_folder(config.benchmarks)
    own = sha256_text(canonical_json([(prompt.text, prompt.solution) for prompt in _own()]))
    return f"{fingerprint(_FILES, folder)} own:{own}"


def run(config: PromptsConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Write `prompts-00000.parquet` (records of Prompt). No inputs. Raises UserError on a file in a wrong format."""
    from codeflow.core.records import write_records  # Parquet is heavy to import

    folder = benchmarks_folder(config.benchmarks)
    prompts = list(_own())
    remarks: list[str] = []
    for file, read in ((HUMANEVAL, _humaneval), (CRUXEVAL, _cruxeval)):
        path = file.find(folder)
        if path:
            prompts.extend(read(path))
        else:
            remarks.append(file.absence(folder))
    write_records(output / "prompts-00000.parquet", prompts, Prompt)
    by_benchmark = {name: sum(p.benchmark == name for p in prompts) for name in sorted({p.benchmark for p in prompts})}
    return seal(output, Counts(read=len(prompts), kept=len(prompts)), {"prompts": by_benchmark, "remarks": remarks})


def _own() -> Iterator[Prompt]:
    for task in micro_tasks.TASKS:
        yield Prompt(f"{micro_tasks.NAME}/{task.name}", micro_tasks.NAME, task.prompt, task.gold)
    for project in projects():
        for cut in cuts(project):
            if cut.level == "function":
                text, (start, stop) = dict(project.sources)[cut.path], cut.middle
                name = f"{PROJECT_COMPLETION}/{project.name}/{cut.path}/{cut.function}"
                yield Prompt(name, PROJECT_COMPLETION, text[cut.definition[0] : start], text[start:stop])


def _humaneval(path: Path) -> Iterator[Prompt]:
    for problem in humaneval.load(path):
        yield Prompt(problem.task_id, humaneval.NAME, problem.prompt, problem.canonical_solution)


def _cruxeval(path: Path) -> Iterator[Prompt]:
    for problem in cruxeval.load(path):
        call = f"f({problem.input}) == {problem.output}"
        yield Prompt(f"CRUXEval/{problem.id}", cruxeval.NAME, problem.code, call)
