"""`codeflow solve`: a checkpoint, or a model behind a url, works as an agent on the tasks of `codeflow mine-tasks`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from codeflow.core.config import apply_overrides
from codeflow.core.progress import say
from codeflow.core.storage import folder_lock
from codeflow.core.types import Score
from codeflow.eval.repository_tasks import SolveConfig, Solver, run
from codeflow.recipes.evaluation import print_scores
from codeflow.recipes.generate import find_model, load_checkpoint
from codeflow.solve.agent.samplers import EndpointSampler, ModelSampler, Settings
from codeflow.solve.agent.tools import TOOLS
from codeflow.solve.repository.tasks import RepositoryTasks


def solve_tasks(tasks: Path, model: str, output: Path | None, overrides: Sequence[str]) -> list[Score]:
    """Let a model work on the tasks of an artifact, print and return the scores.

    Raises UserError for folders that are no tasks or no model and for wrong settings, InfrastructureError for a server
    that cannot be reached at the start.
    """
    config = apply_overrides(SolveConfig(), overrides)
    if "://" in model:
        config = apply_overrides(config, [f"server.url={model}"])
    found = RepositoryTasks(tasks, config.cache)
    with _behind(config) if "://" in model else _here(Path(model), config) as solver:
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", solver.sampler.name)
        output = output or tasks.resolve().with_name(f"{tasks.resolve().name}_{name}")
        with folder_lock(output):
            _, scores = run(config, found, solver, output)
    print_scores(scores)
    say(f"scores: {output / 'scores.json'}; episodes to look at: codeflow inspect-logs {output}")
    return scores


@contextmanager
def _here(checkpoint: Path, config: SolveConfig) -> Iterator[Solver]:
    from codeflow.eval.answers import LocalAnswerer
    from codeflow.model.batching import ContinuousBatch
    from codeflow.solve.serve_decode import DecodeThread

    folder = find_model(checkpoint)
    fingerprint = LocalAnswerer(folder, checkpoint.name, "float32").fingerprint
    model, tokenizer = load_checkpoint(folder)
    decode = DecodeThread(ContinuousBatch(model, config.agent.at_once), config.agent.at_once)
    settings = Settings(config.temperature, config.top_p)
    context_tokens = model.config.max_position_embeddings
    try:
        yield Solver(ModelSampler(decode, tokenizer, checkpoint.resolve().name, context_tokens, settings), fingerprint)
    finally:
        decode.stop(0)


@contextmanager
def _behind(config: SolveConfig) -> Iterator[Solver]:
    from codeflow.endpoint.completions import CompletionClient

    client = CompletionClient.of(config.server)
    settings = Settings(config.temperature, config.top_p)
    sampler = EndpointSampler(client, config.server_context_tokens, settings, TOOLS, config.server_tools)
    yield Solver(sampler, hashlib.sha256(f"{config.server.url} {client.model}".encode()).hexdigest())
