"""Continuing text from a checkpoint: formats, streaming, seeds, and every refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from codeflow.core.config import Config, validate
from codeflow.core.errors import UserError
from codeflow.core.manifest import begin
from codeflow.model.generate import GenerateSettings, generate
from codeflow.model.huggingface import load
from codeflow.recipes.generate import GenerateRequest, find_model, generate_text, prompt_parts
from codeflow.tokens.special import SPECIAL_IDS
from codeflow.tokens.tokenizer import Tokenizer
from tests.recipes.conftest import CONTEXT_TOKENS


def _request(**fields: Any) -> GenerateRequest:
    return validate(GenerateRequest, {"max_new_tokens": 12, **fields})


def _text(**fields: Any) -> str:
    return "".join(part.text for part in prompt_parts(_request(**fields)))


@pytest.mark.parametrize("name", ["train_code", "loop"])
def test_greedy_equals_the_batched_generator(small_run: Path, name: str) -> None:
    model, tokenizer = load(small_run / name / "model", torch.float32), Tokenizer.load(small_run / "tokenizer")
    prompt = "def area_7(width"
    settings = GenerateSettings(max_new_tokens=12, stop_ids=(2, 4))
    (expected,) = generate(model, [tokenizer.encode(prompt)], settings)
    written: list[str] = []
    (found,) = generate_text(small_run / name, _request(prompt=prompt), written.append)
    assert list(found.ids) == expected.ids
    assert found.stop_reason == expected.stop_reason
    assert "".join(written) == found.text + ("" if found.text.endswith("\n") else "\n")
    assert len(written) > 3  # it comes in pieces
    assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-5)
    assert generate_text(small_run / name / "model", _request(prompt=prompt)) == [found]  # the directory itself


def test_samples_depend_on_seed_and_number_alone(small_run: Path) -> None:
    fields = {"prompt": "def area", "temperature": 1.0}
    three = generate_text(small_run / "train_code", _request(**fields, samples=3, seed=5))
    again = generate_text(small_run / "train_code", _request(**fields, samples=2, seed=5))
    other = generate_text(small_run / "train_code", _request(**fields, seed=6))
    assert three[:2] == again
    assert len({one.text for one in [*three, *other]}) == 4
    written: list[str] = []
    generate_text(small_run / "train_code", _request(**fields, samples=2), written.append)
    assert [line for line in written if line.startswith("---")] == [
        "--- sample 1 of 2 ---\n",
        "--- sample 2 of 2 ---\n",
    ]


def test_a_narrow_nucleus_is_greedy(small_run: Path) -> None:
    (greedy,) = generate_text(small_run / "loop", _request(prompt="x = "))
    for fields in ({"top_p": 1e-6, "seed": 3}, {"top_k": 1, "seed": 4}):
        (found,) = generate_text(small_run / "loop", _request(prompt="x = ", temperature=1.0, **fields))
        assert (found.ids, found.text, found.stop_reason) == (greedy.ids, greedy.text, greedy.stop_reason)
        assert found.logprobs == pytest.approx(greedy.logprobs, abs=1e-5)


def test_a_stop_token_and_a_stop_text_of_ones_own(small_run: Path) -> None:
    folder = small_run / "train_code"
    (free,) = generate_text(folder, _request(prompt="def area"))
    stop = free.text[3:6]
    (cut,) = generate_text(folder, _request(prompt="def area", stop=(stop,)))
    assert cut.text == free.text[: free.text.index(stop)]
    assert cut.ids == free.ids[: len(cut.ids)]
    assert cut.stop_reason == "stop"
    names = {i: name for name, i in SPECIAL_IDS.items()}
    (found,) = generate_text(folder, _request(prompt="def area", stop=tuple(names.values())))
    assert found.stop_reason in ("stop", "length")
    assert not set(found.ids[:-1]) & set(names)
    with pytest.raises(UserError, match="stop token '<|fim_pad|>' is no special token".replace("|", r"\|")):
        generate_text(folder, _request(prompt="def area", stop=("<|fim_pad|>",)))


def test_formats(tmp_path: Path) -> None:
    assert _text(prompt="a <|im_end|>") == "a <|im_end|>"
    assert [part.role for part in prompt_parts(_request(prompt="a <|im_end|>"))] == ["text"]
    assert _text(fim=("a(", ")")) == "<|fim_prefix|>a(<|fim_suffix|>)<|fim_middle|>"
    assert _text(fim=("a(", "")) == "<|fim_prefix|>a(<|fim_suffix|><|fim_middle|>"
    assert _text(chat="Hi") == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert _text(chat="Hi", system="Be short.", thinking=True) == (
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )
    (tmp_path / "a.py").write_bytes(b"x = 1\r\n")
    assert _text(file=tmp_path / "a.py") == "x = 1\r\n"


def test_the_context_ends_a_text(small_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = _request(prompt="x" * 40, max_new_tokens=500, temperature=1.0)
    (found,) = generate_text(small_run / "train_code", request)
    if found.stop_reason == "context":
        n_prompt = len(Tokenizer.load(small_run / "tokenizer").encode("x" * 40))
        assert n_prompt + len(found.ids) == CONTEXT_TOKENS
        assert f"the context of {CONTEXT_TOKENS} tokens is full" in capsys.readouterr().err
    else:
        assert found.ids[-1] in (2, 4)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "exactly one of prompt, file, fim and chat, not none"),
        ({"prompt": "a", "chat": "b"}, "not prompt and chat"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"fim": ("", "")}, "empty prefix and an empty suffix"),
        ({"chat": " \n"}, "chat message is empty"),
        ({"prompt": "a", "thinking": True}, "belong to chat"),
        ({"prompt": "a", "samples": 3}, "would all be equal at temperature 0"),
        ({"prompt": "a", "max_new_tokens": 0}, "max_new_tokens=0"),
        ({"prompt": "a", "temperature": -1}, "temperature=-1"),
        ({"prompt": "a", "temperature": 1, "top_p": 0}, "top_p=0"),
        ({"prompt": "a", "stop": ("<|im_ned|>",)}, "did you mean '<|im_end|>'"),
        ({"prompt": "word " * 200}, "leaves no room in the model's context of 96"),
        ({"file": Path("absent.py")}, "cannot read absent.py"),
    ],
)
def test_refusals_are_one_line(small_run: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        generate_text(small_run / "train_code", _request(**fields))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_unreadable_files_are_refused(small_run: Path, tmp_path: Path) -> None:
    for name, content, words in (("empty", b"", "is empty"), ("image", b"\x89PNG\xff", "not UTF-8 text (byte 0)")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as error:
            generate_text(small_run / "loop", _request(file=tmp_path / name))
        assert words in str(error.value)


def test_what_is_no_checkpoint_is_refused(small_run: Path, tmp_path: Path) -> None:
    begin(tmp_path / "begun", "checkpoint", Config(), {}, "k")
    for folder, words in (
        (tmp_path / "absent", "is no folder"),
        (small_run / "split", "is not a checkpoint"),
        (tmp_path / "begun", "is unfinished"),
        (small_run, "is not a checkpoint"),
    ):
        with pytest.raises(UserError) as error:
            find_model(folder)
        assert words in str(error.value)
    for name in ("one", "two"):
        (tmp_path / "release" / name).mkdir(parents=True)
        (tmp_path / "release" / name / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match=r"several models; name one: .*release/one, .*release/two"):
        find_model(tmp_path / "release")
