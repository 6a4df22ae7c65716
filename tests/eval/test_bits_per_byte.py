from __future__ import annotations

import gzip
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from codeflow.core.records import read_shards
from codeflow.core.types import Document
from codeflow.eval.bits_per_byte import choose, compressor_scores, document_nats, model_scores, windows
from codeflow.eval.records import Scorer
from codeflow.model.config import ModelConfig
from codeflow.model.huggingface import load
from codeflow.model.looped import LoopCoder

_SHAPE = ModelConfig(
    vocab_size=300,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    max_position_embeddings=64,
)


def _scorer(checkpoint: str) -> Scorer:
    return Scorer("heldout", checkpoint, {}, 100, 0)


def _heldout(world) -> list[Document]:
    return choose(read_shards(world["documents"], "heldout", Document), 100, 4000)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(1, 12))
def test_windows_predict_every_token_but_the_first_once(ids, context):
    runs = windows(ids, context)
    assert [token for run in runs for token in run[1:]] == ids[1:]
    assert all(2 <= len(run) <= context + 1 for run in runs)
    assert all(left[-1] == right[0] for left, right in itertools.pairwise(runs))


def test_uniform_model_costs_log2_of_the_vocabulary_per_token():
    model = LoopCoder(_SHAPE)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    texts = ["abcdefgh" * 5, "é", "x"]
    documents = [Document(str(i), text, "Python", None, {}) for i, text in enumerate(texts)]  # type: ignore[arg-type]
    ids = [[17] * 23, [3, 4], [5]]
    nats = document_nats(model, ids, context_tokens=8, batch_tokens=32)
    score = model_scores(_scorer("uniform"), documents, nats)[0]
    n_bytes = sum(len(text.encode()) for text in texts)
    assert score.value == pytest.approx(math.log2(300) * sum(map(len, ids)) / n_bytes)


def test_nats_equal_one_forward_pass_per_window():
    model = LoopCoder(_SHAPE, seed=1)
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(300, (n,), generator=generator).tolist() for n in (40, 3, 17, 1, 33)]
    found = document_nats(model, ids, context_tokens=16, batch_tokens=48)
    for document, nats in zip(ids, found, strict=True):
        expected = math.log(300)
        for run in windows(document, 16):
            with torch.no_grad():
                logits = model.logits(model(torch.tensor([run[:-1]])))[0]
            expected -= sum(logits.log_softmax(-1)[i, token].item() for i, token in enumerate(run[1:]))
        assert nats == pytest.approx(expected, rel=1e-5)


def test_compressors_and_subsets(world):
    documents = _heldout(world)
    scores = {s.subset: s for s in compressor_scores(_scorer("gzip"), documents)}
    assert set(scores) == {"", "code", "general", "Python", "JavaScript", "Markdown"}
    python = [d for d in documents if d.language == "Python"]
    size = sum(len(gzip.compress(d.text.encode(), 9)) for d in python)
    assert scores["Python"].value == pytest.approx(8 * size / sum(len(d.text.encode()) for d in python))
    assert scores["Python"].n == 8
    assert scores[""].low <= scores[""].value <= scores[""].high


def test_choice_is_by_id_and_capped(world):
    documents = _heldout(world)
    few = choose(reversed(documents), 2, 10)
    assert len(few) == 4
    assert all(len(d.text) == 10 for d in few)
    code = sorted((d for d in documents if d.language != "Markdown"), key=lambda d: d.id)[:2]
    assert [d.id for d in few[:2]] == [d.id for d in code]


def test_a_trained_model_beats_its_untrained_self(world):
    model = load(world["first"] / "model", torch.float32)
    from codeflow.tokens.tokenizer import Tokenizer

    ids = [Tokenizer.load(world["tokenizer"]).encode(d.text) for d in _heldout(world)]
    before = sum(document_nats(model, ids, 64, 2048))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(6):
        loss = torch.tensor(0.0)
        for document in ids[:4]:
            row = torch.tensor([document[:65]])
            logits = model.logits(model(row[:, :-1]))
            loss = loss + torch.nn.functional.cross_entropy(logits[0], row[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sum(document_nats(model, ids, 64, 2048)) < 0.9 * before
