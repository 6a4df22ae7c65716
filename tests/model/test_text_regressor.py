from __future__ import annotations

import numpy as np
import pytest
import torch

from codeflow.model.config import ModelConfig
from codeflow.model.text_regressor import TextRegressor, TransformerScorer, batches_by_length, first_tokens, padded
from codeflow.tokens.tokenizer import Tokenizer, TokenizerConfig, train

SHAPE = ModelConfig(
    vocab_size=400,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=24,
    tie_word_embeddings=True,
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train(["def f(x):\n    return x\n" * 3], TokenizerConfig(vocab_size=400)))


def network() -> TextRegressor:
    made = TextRegressor(SHAPE)
    torch.nn.init.normal_(made.head.weight, generator=torch.Generator().manual_seed(1))
    return made


def test_padding_changes_nothing() -> None:
    one, other = np.arange(20, 27), np.arange(30, 50)
    alone = network()(*padded([one]))
    together = network()(*padded([one, other]))
    assert alone[0].item() == pytest.approx(together[0].item(), abs=1e-5)
    assert abs(together[0].item() - together[1].item()) > 1e-4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_logits_do_not_depend_on_the_batch_and_read_the_start_only(precision: str, tokenizer: Tokenizer) -> None:
    scorer = TransformerScorer(network(), tokenizer, precision)
    texts = ["", "def f(x):\n", "x = 1\n" * 100, "x = 1\n" * 100 + "other", "é\ud800", "y"]
    logits, sizes = scorer.logits(texts)
    tolerance = 1e-5 if precision == "fp32" else 0.03
    for text, logit, size in zip(texts, logits, sizes, strict=True):
        assert scorer.logits([text])[0][0] == pytest.approx(logit, abs=tolerance)
        assert size <= max(1, len(text.encode("utf-8", "replace")) + 2)
    assert logits[2] == logits[3]
    assert sizes[2] == sizes[3] < 600
    assert scorer.logits([])[0].shape == (0,)


def test_batches_hold_every_row_once_within_the_limit() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 99).tolist()
    batches = batches_by_length(lengths, 120)
    assert sorted(np.concatenate(batches).tolist()) == list(range(99))
    assert all(len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= 120 for rows in batches)


def test_the_first_tokens_of_a_long_text_are_its_own(tokenizer: Tokenizer) -> None:
    text = "def f(x):\n    return x\n" * 1000
    assert first_tokens(tokenizer, text, 24).tolist() == tokenizer.encode(text)[:24]
    spaces = " " * 5000 + "x"
    assert len(first_tokens(tokenizer, spaces, 24)) >= 1
