"""Training is reproducible, ids are those of Hugging Face tokenizers, decoding is exact."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from campaigns.tokenizer import Pair, Row, check, hypothesis_texts, random_texts, spliced_texts
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from codeflow.core.errors import UserError
from codeflow.core.manifest import begin, check_files
from codeflow.core.records import write_records
from codeflow.core.types import Document, Origin, Sample, Segment
from codeflow.tokens.render import render
from codeflow.tokens.special import IM_END, PAD, SPECIAL_IDS, SPECIAL_TOKENS
from codeflow.tokens.tokenizer import (
    TOKENIZER_FILE,
    Tokenizer,
    TokenizerConfig,
    byte_letters,
    merge_conflicts,
    run,
    train,
)

SOURCES = sorted((Path(__file__).parents[2] / "src" / "codeflow" / "core").glob("*.py"))
CONFIG = TokenizerConfig(vocab_size=700)
HYPOTHESIS = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def trained() -> str:
    return train([path.read_text() for path in SOURCES], CONFIG)


@pytest.fixture(scope="module")
def ours(trained: str) -> Tokenizer:
    return Tokenizer(trained)


@pytest.fixture(scope="module")
def theirs(trained: str) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_str(trained)
    tokenizer.encode_special_tokens = True  # look-alikes in text are text
    return tokenizer


def test_training_does_not_depend_on_the_order_of_documents(trained: str) -> None:
    assert train([path.read_text() for path in reversed(SOURCES)], CONFIG) == trained


def test_vocabulary_starts_with_special_tokens_then_bytes(trained: str, ours: Tokenizer) -> None:
    vocabulary = json.loads(trained)["model"]["vocab"]
    assert [vocabulary[name] for name in SPECIAL_TOKENS] == list(range(16))
    assert sorted(ours.decode_bytes([i]) for i in range(16, 272)) == [bytes([b]) for b in range(256)]
    assert ours.vocab_size == len(vocabulary) == CONFIG.vocab_size


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_real_files_have_the_ids_of_hugging_face(path: Path, ours: Tokenizer, theirs: tokenizers.Tokenizer) -> None:
    text = path.read_text()
    ids = ours.encode(text)
    assert ids == theirs.encode(text).ids == ours.encode_array(text).tolist() == ours.encode_batch([text])[0]
    assert ours.decode(ids) == text == theirs.decode(ids, skip_special_tokens=False)


CODE = st.text(st.sampled_from("ab_A9 \t\r\n.(){}:'\"<|>/é中\u0301\u00a0\u2028😀\x00\x85"), max_size=80)
LOOKALIKES = st.lists(st.sampled_from([*SPECIAL_TOKENS, " ", "x", "\n"]), max_size=6).map("".join)


@HYPOTHESIS
@given(st.one_of(st.text(max_size=60), CODE, LOOKALIKES))
@example("<|endoftext|>")
@example("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
@example("\ufeff\u200b\U0010ffff\ud7ff\ue000")
@example("")
def test_any_text_has_the_ids_of_hugging_face(ours: Tokenizer, theirs: tokenizers.Tokenizer, text: str) -> None:
    ids = ours.encode(text)
    assert ids == theirs.encode(text).ids
    assert ours.decode(ids) == text
    assert not set(ids) & set(SPECIAL_IDS.values())


def test_a_sample_of_the_campaign(ours: Tokenizer, theirs: tokenizers.Tokenizer, trained: str) -> None:
    files = [text for path in SOURCES if (text := path.read_text())]
    row = Row()
    for texts in (hypothesis_texts(200, 0), random_texts(500, 0), spliced_texts(500, files, 0)):
        check([Pair(ours, theirs)], texts, row)
    assert row.texts == 1200
    assert not row.differences
    other = tokenizers.Tokenizer.from_str(train(files[:2], CONFIG))
    assert check([Pair(ours, other)], spliced_texts(20, files, 0), Row()).differences


@pytest.mark.slow
def test_the_standard_library_has_the_ids_of_hugging_face(ours: Tokenizer, theirs: tokenizers.Tokenizer) -> None:
    texts = [path.read_text() for path in sorted(Path(json.__file__).parents[1].glob("*/*.py")) if _is_utf8(path)]
    assert len(texts) > 300
    assert ours.encode_batch(texts) == [encoding.ids for encoding in theirs.encode_batch(texts)]


def _is_utf8(path: Path) -> bool:
    try:
        path.read_text()
    except UnicodeDecodeError:
        return False
    return True


def test_a_lone_surrogate_is_refused(ours: Tokenizer) -> None:
    with pytest.raises(UserError, match="lone surrogate at character 2"):
        ours.encode("ab\ud800")


def test_ids_outside_the_vocabulary_are_refused(ours: Tokenizer) -> None:
    with pytest.raises(UserError, match="token id 700 is outside"):
        ours.decode([20, 700])


def test_long_runs_do_not_backtrack(ours: Tokenizer) -> None:
    for unit in (" ", "a", "\n", "=", "é", "1"):
        text = unit * 200_000
        assert ours.decode(ours.encode(text)) == text


def test_special_names(ours: Tokenizer) -> None:
    assert ours.special_id(IM_END) == 4
    assert ours.decode([4]) == IM_END
    with pytest.raises(UserError, match="no special token '<nothing>'"):
        ours.special_id("<nothing>")


def test_byte_letters_are_those_of_hugging_face() -> None:
    assert set(byte_letters()) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_letters().values()) == list(range(256))


def test_merges_that_ids_do_not_reproduce_are_found() -> None:
    ranks = {b"a": 0, b"b": 1, b"c": 2, b"bc": 3, b"ab": 4, b"abc": 5}
    assert merge_conflicts(ranks, [(b"b", b"c"), (b"a", b"b"), (b"a", b"bc")]) == []
    assert merge_conflicts(ranks, [(b"b", b"c"), (b"a", b"b"), (b"ab", b"c")]) == [b"abc"]


def _write_documents(folder: Path, texts: list[str], name: str = "documents") -> None:
    origin = Origin("test", "r", "1", "p", "MIT", "2024-01-01T00:00:00Z")
    documents = [Document(f"{n:064x}", text, "Python", origin) for n, text in enumerate(texts)]
    write_records(folder / f"{name}-00000.parquet", documents, Document)


def test_stage_is_reproducible_and_measures_on_held_out_documents(tmp_path: Path) -> None:
    folder = tmp_path / "split"
    folder.mkdir()
    _write_documents(folder, [path.read_text() for path in SOURCES[:-1]])
    _write_documents(folder, [SOURCES[-1].read_text()], "heldout")
    manifests = []
    for name in ("one", "two"):
        begin(tmp_path / name, "tokenizer", CONFIG, {}, "k")
        manifests.append(run(CONFIG, {"documents": folder}, tmp_path / name))
        check_files(tmp_path / name)
    assert manifests[0] == manifests[1]
    tokenizer = Tokenizer.load(tmp_path / "one")
    text = SOURCES[-1].read_text()
    row = manifests[0].metrics["bytes_per_token"]["Python"]
    assert row["held_out"] == 1
    assert row["bytes_per_token"] == round(len(text.encode()) / len(tokenizer.encode(text)), 4)
    assert tokenizer.fingerprint == manifests[0].files[TOKENIZER_FILE].sha256


def test_a_stage_killed_after_training_does_not_train_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "split"
    folder.mkdir()
    _write_documents(folder, [path.read_text() for path in SOURCES])
    begin(tmp_path / "whole", "tokenizer", CONFIG, {}, "k")
    whole = run(CONFIG, {"documents": folder}, tmp_path / "whole")
    begin(tmp_path / "cut", "tokenizer", CONFIG, {}, "k")
    (tmp_path / "cut" / TOKENIZER_FILE).write_bytes((tmp_path / "whole" / TOKENIZER_FILE).read_bytes())
    monkeypatch.setattr("codeflow.tokens.tokenizer.train", None)
    assert run(CONFIG, {"documents": folder}, tmp_path / "cut") == whole


def test_sampling_takes_about_what_was_asked(tmp_path: Path) -> None:
    folder, output = tmp_path / "split", tmp_path / "out"
    folder.mkdir()
    _write_documents(folder, [f"document number {n} says hello\n" for n in range(400)])
    config = TokenizerConfig(vocab_size=300, sample_bytes=6_000)
    begin(output, "tokenizer", config, {}, "k")
    counts = run(config, {"documents": folder}, output).counts
    assert counts.read == 400
    assert 150 < counts.kept < 250
    assert counts.dropped == {"not_sampled": 400 - counts.kept}


def test_no_text_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text in"):
        run(CONFIG, {"documents": tmp_path}, tmp_path)


def test_foreign_tokenizer_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not one that CodeFlow trained"):
        Tokenizer('{"model": {}}')
    with pytest.raises(UserError, match=r"no tokenizer\.json in"):
        Tokenizer.load(tmp_path)


def test_render_masks_segments_and_keeps_lookalikes_text(ours: Tokenizer) -> None:
    segments = (Segment("text", "a <|im_end|> b", False), Segment("special", IM_END), Segment("text", ""))
    ids, trained_on = render(Sample("s", segments, (), "code"), ours)
    body = ours.encode("a <|im_end|> b")
    assert ids.tolist() == [*body, SPECIAL_IDS[IM_END]]
    assert trained_on.tolist() == [False] * len(body) + [True]
    assert ids.dtype == np.uint32
    assert len(body) > 6


@pytest.mark.parametrize("segment", [Segment("special", PAD), Segment("special", "x"), Segment("user", "x")])
def test_segments_that_cannot_be_rendered_are_refused(ours: Tokenizer, segment: Segment) -> None:
    with pytest.raises(UserError):
        render(Sample("s", (segment,), (), "code"), ours)
