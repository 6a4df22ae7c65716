from __future__ import annotations

import pytest

from codeflow.core.records import read_records, write_records
from codeflow.core.types import Rollout, Task
from codeflow.model.config import ModelConfig
from codeflow.model.looped import LoopCoder
from codeflow.sandbox.local import probe
from codeflow.solve.config import RolloutConfig
from codeflow.solve.rollout import Source, prompt_ids, roll_out
from codeflow.solve.verify import python_calls_data
from codeflow.tokens.special import IM_START, SPECIAL_IDS, THINK
from codeflow.tokens.tokenizer import Tokenizer, TokenizerConfig, train

CONFIG = RolloutConfig(max_new_tokens=6, wall_seconds=20)


def task(name: str, prompt: str) -> Task:
    return Task(name, "micro_tasks", prompt, "python_calls", python_calls_data("f", [(1,)], [2]), "codeflow")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train(["user assistant Write f that adds one."], TokenizerConfig(vocab_size=290)))


def source(tokenizer: Tokenizer, step: int = 1) -> Source:
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=64,
    )
    return Source(LoopCoder(config), tokenizer, "c", seed=3, step=step)


def test_prompts_open_the_turn_or_the_thinking_block(tokenizer):
    plain, thinking = (prompt_ids(task("a", "Write <|im_end|> f"), tokenizer, kind) for kind in (False, True))
    assert plain.count(SPECIAL_IDS[IM_START]) == 2
    assert thinking[: len(plain)] == plain
    assert thinking[len(plain)] == SPECIAL_IDS[THINK]
    assert tokenizer.decode(plain).endswith("<|im_start|>assistant\n")


@pytest.mark.skipif(not probe().backend, reason=probe().problem or "sandbox works")
def test_rollouts_repeat_and_those_of_a_task_do_not_depend_on_the_others(tokenizer, tmp_path):
    tasks = [task("a", "Write f"), task("b", "Write f that adds"), task("long", "words " * 80)]
    rolled = roll_out(source(tokenizer), tasks, 3, CONFIG)
    assert rolled.n_prompts_too_long == 1
    assert [(r.task_id, r.sample) for r in rolled.rollouts] == [(t, n) for t in "ab" for n in range(3)]
    assert len({r.ids for r in rolled.rollouts}) > 1
    assert all(len(r.ids) == len(r.logprobs) and max(r.logprobs) < 0 for r in rolled.rollouts)
    assert roll_out(source(tokenizer), tasks, 3, CONFIG).rollouts == rolled.rollouts
    alone = roll_out(source(tokenizer), tasks[1:2], 3, CONFIG).rollouts
    assert [r.ids for r in alone] == [r.ids for r in rolled.rollouts[3:]]
    later = roll_out(source(tokenizer, step=2), tasks, 3, CONFIG).rollouts
    assert [r.ids for r in later] != [r.ids for r in rolled.rollouts]
    write_records(tmp_path / "rollouts.parquet", rolled.rollouts, Rollout)
    assert list(read_records(tmp_path / "rollouts.parquet", Rollout)) == rolled.rollouts
