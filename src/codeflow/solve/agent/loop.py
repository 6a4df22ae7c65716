"""An agent at work on a repository task: turns of the model and answers of tools until it submits or a limit is met.

When a context is nearly full, the model is asked for a summary of what it has reached; the next context begins with the
task and that summary. The summary is a turn like any other, with the ids that were sampled, so a training step on the
episode (`contexts_of`) has the exact masks: every id of every context is there once, and those that were sampled carry
loss.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import Field, PositiveInt

from codeflow.core.config import Config
from codeflow.core.errors import InfrastructureError
from codeflow.core.types import Episode, Task, Turn, Verdict
from codeflow.solve.agent.samplers import Context, Said, Sampler
from codeflow.solve.agent.tools import TOOLS, Answered, ToolLimits, call_tool, cut
from codeflow.solve.repository.tasks import RepositoryTasks
from codeflow.solve.repository.workspace import Workspace
from codeflow.tokens.chat import Message
from codeflow.transform.patch import make_patch

_SYSTEM = "You are a software engineer. Work in small steps, look before you change, run tests, and submit when done."
_NO_CALL = "That was no tool call. Call a tool; call submit when the work is done."
_PROBLEM = "{problem}. Nothing was done; call again."
_SUMMARISE = (
    "The context is nearly full. Write a summary for yourself, who will go on with nothing else: what is done, which "
    "files it is in, what was found out, what is left to do. Call no tool."
)
_GO_ON = """\
{task}

You have worked on this already. Your summary of it:

{summary}

The files are as you left them. Go on."""
_LEAST_CHARACTERS = 200


class AgentConfig(Config):
    """The limits of an episode."""

    max_turns: PositiveInt = 50  # of the model, summaries included
    max_seconds: float = Field(default=1800.0, gt=0)
    max_idle_turns: PositiveInt = 3  # in a row without a call that can be read
    answer_tokens: PositiveInt = 2048  # of one turn
    summary_tokens: PositiveInt = 1024
    context_tokens: PositiveInt | None = None  # None: the sampler's
    command_seconds: float = Field(default=60.0, gt=0)
    output_characters: PositiveInt = 8000  # of a tool's answer
    at_once: PositiveInt = 4  # episodes


@dataclass
class _Episode:
    """One episode as it grows."""

    task: Task
    sampler: Sampler
    workspace: Workspace
    config: AgentConfig
    seed: int
    turns: list[Turn] = field(default_factory=list)
    context: Context = field(default_factory=Context)
    number: int = 0
    n_sampled: int = 0
    n_idle: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def budget(self) -> int:
        """The longest context in tokens."""
        return min(self.config.context_tokens or self.sampler.context_tokens, self.sampler.context_tokens)

    async def work(self) -> str:
        """Go on until something ends it; return what."""
        self.begin(self.task.prompt)
        while True:
            if self.n_sampled >= self.config.max_turns:
                return "turns"
            if time.monotonic() - self.started > self.config.max_seconds:
                return "seconds"
            if self.context.n_tokens + self.config.answer_tokens > self.budget:
                return "context"  # not even the task fits, or a summary made no room
            said = await self.speak("assistant", self.config.answer_tokens)
            stop = await self.answer(said)
            if stop:
                return stop
            if self.is_full() and not await self.summarise():
                return "context"

    def begin(self, prompt: str) -> None:
        """Start a context."""
        self.context = Context()
        system = "\n\n".join(part for part in (_SYSTEM, self.sampler.tools_prompt(TOOLS)) if part)
        self.read("prompt", [Message("system", system), Message("user", prompt)])

    def read(self, role: str, messages: Sequence[Message], exit_code: int | None = None, seconds: float = 0.0) -> None:
        """Append what the model is to read; the last message is cut where it would leave no room for a summary."""
        kept = list(messages)
        while self.context.ids or self.context.native:
            over = self.context.n_tokens + self.sampler.cost(self.context, kept) + self._reserve() - self.budget
            text = kept[-1].content
            if over <= 0 or len(text) <= _LEAST_CHARACTERS:
                break
            kept[-1] = Message(kept[-1].role, cut(text, max(_LEAST_CHARACTERS, len(text) // 2)))
        ids = self.sampler.add(self.context, kept)
        text = "\n\n".join(message.content for message in kept)
        self.turns.append(Turn(self.number, role, False, ids, (), text, exit_code, seconds))

    def _reserve(self) -> int:
        asks = self.sampler.cost(self.context, [Message("user", _SUMMARISE)])
        return asks + self.config.summary_tokens

    def is_full(self) -> bool:
        """Say whether another turn and then a summary would not fit."""
        return self.context.n_tokens + self.config.answer_tokens + self._reserve() > self.budget

    async def speak(self, role: str, max_tokens: int) -> Said:
        """Sample a turn."""
        begun = time.monotonic()
        digest = hashlib.sha256(f"{self.seed}/{self.n_sampled}".encode()).digest()
        room = self.budget - self.context.n_tokens
        said = await self.sampler.sample(self.context, min(max_tokens, room), int.from_bytes(digest[:7], "little"))
        self.n_sampled += 1
        seconds = time.monotonic() - begun
        self.turns.append(Turn(self.number, role, True, said.ids, said.logprobs, said.text, None, seconds))
        return said

    async def answer(self, said: Said) -> str:
        """Do what a turn's calls ask; return why the episode ends, or ""."""
        limits = ToolLimits(self.config.command_seconds, self.config.output_characters)
        begun, answers = time.monotonic(), list[Answered]()
        for call in said.calls:
            answers.append(await call_tool(call, self.workspace, limits))
            if answers[-1].fault or answers[-1].submitted:
                break
        if answers and answers[-1].fault:
            raise InfrastructureError(answers[-1].text)
        if answers and answers[-1].submitted:
            return "submitted"
        messages = [Message("tool", one.text) for one in answers]
        if said.problem or not said.calls:
            messages.append(Message("user", _PROBLEM.format(problem=said.problem) if said.problem else _NO_CALL))
        self.n_idle = 0 if answers else self.n_idle + 1
        codes = [one.exit_code for one in answers]
        self.read("tool" if answers else "user", messages, codes[-1] if codes else None, time.monotonic() - begun)
        return "no call" if self.n_idle >= self.config.max_idle_turns else ""

    async def summarise(self) -> bool:
        """Ask for a summary and begin the next context with it; False where no turn is left, or no room."""
        if self.n_sampled >= self.config.max_turns:
            return True  # the loop says why it ends
        room = self.budget - self.context.n_tokens - self.sampler.cost(self.context, [Message("user", _SUMMARISE)])
        if room < 1:
            return False
        self.read("user", [Message("user", _SUMMARISE)])
        said = await self.speak("summary", self.config.summary_tokens)
        self.number += 1
        self.begin(_GO_ON.format(task=self.task.prompt, summary=said.content or said.text))
        return not self.is_full()


async def run_episode(
    tasks: RepositoryTasks, task: Task, sampler: Sampler, config: AgentConfig, sample: int = 0, seed: int = 0
) -> Episode:
    """Let an agent work on a task and judge what it leaves.

    A sandbox or a model that fails makes an infrastructure fault, never a failure of the model.
    """
    place = await asyncio.to_thread(tasks.place, task)
    digest = hashlib.sha256(f"{seed}/{task.id}/{sample}".encode()).digest()
    work = _Episode(task, sampler, Workspace(place), config, int.from_bytes(digest[:7], "little"))
    try:
        stop_reason = await work.work()
        verdict = await tasks.judge(task, work.workspace.changes)
    except InfrastructureError as error:
        stop_reason, verdict = "infrastructure", Verdict(False, 0.0, str(error)[:300], "infrastructure", 0, 0)
    return Episode(
        task_id=task.id,
        checkpoint=sampler.name,
        step=0,
        sample=sample,
        turns=tuple(work.turns),
        stop_reason=stop_reason,
        patch=_patch(work.workspace),
        seconds=time.monotonic() - work.started,
        verdict=verdict,
    )


def _patch(workspace: Workspace) -> str:
    """Return the text changes as a patch that `git apply` takes."""
    origin = Workspace(workspace.place)
    before, after = {}, {}
    for path, content in workspace.changes.items():
        with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
            before[path] = origin.read(path).decode("utf-8")
        with contextlib.suppress(UnicodeDecodeError):
            after |= {path: content.decode("utf-8")} if content is not None else {}
    return make_patch(before, after)


async def run_episodes(
    tasks: RepositoryTasks,
    wanted: Sequence[Task],
    sampler: Sampler,
    config: AgentConfig,
    samples: int = 1,
    seed: int = 0,
) -> list[Episode]:
    """Run `samples` episodes for each task, `at_once` at a time; those of a task lie next to each other."""
    gate = asyncio.Semaphore(config.at_once)

    async def one(task: Task, sample: int) -> Episode:
        async with gate:
            return await run_episode(tasks, task, sampler, config, sample, seed)

    return await asyncio.gather(*[one(task, sample) for task in wanted for sample in range(samples)])


@dataclass(frozen=True, slots=True)
class TrainedContext:
    """One context for a training step: ids (n,), which of them were sampled (n,), their log-probabilities (n,)."""

    ids: tuple[int, ...]
    sampled: tuple[bool, ...]
    logprobs: tuple[float, ...]  # 0 where nothing was sampled


def contexts_of(episode: Episode) -> list[TrainedContext]:
    """Return an episode's contexts, in order. Raises ValueError where its ids are not known."""
    found: list[TrainedContext] = []
    for number in range(max(turn.context for turn in episode.turns) + 1):
        turns = [turn for turn in episode.turns if turn.context == number]
        if any(not turn.ids for turn in turns):
            raise ValueError(f"the ids of {episode.task_id} are not known: its model was behind a url")
        ids = tuple(token for turn in turns for token in turn.ids)
        sampled = tuple(turn.sampled for turn in turns for _ in turn.ids)
        logprobs = tuple(p for turn in turns for p in (turn.logprobs if turn.sampled else (0.0,) * len(turn.ids)))
        found.append(TrainedContext(ids, sampled, logprobs))
    return found
