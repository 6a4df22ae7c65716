"""The report of a run: one self-contained HTML page, and `summary.txt` with the numbers that matter.

Every section names the artifacts its numbers come from. The page shows times and memory, so its bytes differ between
runs; nothing is made from it.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codeflow.core.config import Config
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.storage import write_text


class ReportConfig(Config):
    """What the page shows."""

    title: str = "A CodeFlow run"
    examples_per_reason: int = 2
    example_characters: int = 420
    n_triplets: int = 2
    n_generations: int = 6


def run(config: ReportConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Write `index.html` and `summary.txt` from a run's artifacts, given by stage name in the chain's order."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from codeflow.report import allocation, overview, quality, reinforcement, scoreboard, sections, training
    from codeflow.report.gather import read_artifact

    artifacts = {name: read_artifact(name, folder) for name, folder in inputs.items()}
    content: dict[str, Any] = {
        "title": config.title,
        "environment": environment(),
        "funnel": sections.funnel(artifacts, config),
        "mixture": sections.mixture(artifacts),
        "allocation": allocation.allocation(artifacts),
        "quality": quality.quality(artifacts),
        "training": training.training(artifacts),
        "folding": training.folding(artifacts),
        "headroom": reinforcement.headroom(artifacts),
        "reinforcement": reinforcement.reinforcement(artifacts),
        "comparison": scoreboard.comparison(artifacts),
        "board": scoreboard.board(artifacts),
        "published": scoreboard.published(),
        "scores": sections.scores(artifacts, config),
        "evolution": sections.evolution(artifacts, config),
        "stages": overview.stages(artifacts),
        "summary": (summary := overview.summary(artifacts)),
    }
    templates = Environment(
        loader=PackageLoader("codeflow.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_text(output / "index.html", templates.get_template("page.html.j2").render(**content))
    write_text(output / "summary.txt", "".join(f"{name}: {value}\n" for name, value in summary))
    return seal(output, Counts(read=len(artifacts), kept=len(artifacts)))


def environment() -> dict[str, str]:
    """Return the machine and versions that matter for reading the numbers."""
    import importlib.metadata
    import os

    def version(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return "not installed"

    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = next((int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "processor": f"{model}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{memory / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **{name: version(name) for name in ("codeflow", "torch", "numpy", "pyarrow", "tokenizers", "tree-sitter")},
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
