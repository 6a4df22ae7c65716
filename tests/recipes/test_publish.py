"""Published directories: weights, tokenizer, card; and what transformers makes of them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from codeflow.core.errors import UserError
from codeflow.core.manifest import Manifest, begin, check_files, read_manifest
from codeflow.core.storage import sha256_file
from codeflow.model.generate import GenerateSettings, generate
from codeflow.model.huggingface import load
from codeflow.recipes import publish
from codeflow.recipes.generate import GenerateRequest, generate_text
from codeflow.recipes.model_card import lineage, phases
from codeflow.recipes.publish import PublishConfig
from codeflow.tokens.chat import Message, prompt_segments
from codeflow.tokens.render import render_segments
from codeflow.tokens.special import SPECIAL_TOKENS
from codeflow.tokens.tokenizer import Tokenizer

PEER = Path(__file__).parents[2] / "benchmarks" / "peers" / "transformers"
_SHARED = {"documents": "split", "tokenizer": "tokenizer"}
_EVERYTHING = {**_SHARED, "general": "train_general", "code": "train_code", "loop": "loop", "scores": "evaluate"}


def _publish(run: Path, output: Path, inputs: dict[str, str] | None = None) -> Manifest:
    config = PublishConfig(title="tiny")
    begin(output, "release", config, {}, "k")
    return publish.run(config, {name: run / stage for name, stage in (inputs or _EVERYTHING).items()}, output)


@pytest.fixture(scope="module")
def release(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out") / "publish"
    _publish(small_run, output)
    return output


@pytest.mark.parametrize(("name", "stage"), [("general", "train_general"), ("loop", "loop")])
def test_weights_are_those_of_the_checkpoint_in_fp32(release: Path, small_run: Path, name: str, stage: str) -> None:
    published, source = load(release / name), load(small_run / stage / "model")
    assert published.config == source.config
    assert source.norm.weight.dtype == torch.bfloat16
    for (key, value), other in zip(published.state_dict().items(), source.state_dict().values(), strict=True):
        assert value.dtype == torch.float32, key
        assert torch.equal(value, other.float()), key


def test_every_file_is_there(release: Path) -> None:
    common = {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    code = {"configuration_iquestloopcoder.py", "modeling_iquestloopcoder.py"}
    for name, files in (("general", common), ("code", common), ("loop", common | code)):
        assert {path.name for path in (release / name).iterdir()} == files
        tree = json.loads((release / name / "generation_config.json").read_text())
        assert tree["eos_token_id"] == [2, 4]
        tree = json.loads((release / name / "tokenizer_config.json").read_text())
        assert "<|im_start|>" in tree["chat_template"]
        assert tree["model_max_length"] == 96
        assert tree["model_input_names"] == ["input_ids", "attention_mask"]
        tree = json.loads((release / name / "special_tokens_map.json").read_text())
        others = tree.pop("additional_special_tokens")
        assert sorted([*tree.values(), *others]) == sorted(SPECIAL_TOKENS)
    check_files(release, deep=True)


def test_card(release: Path, small_run: Path) -> None:
    card = (release / "code" / "README.md").read_text()
    assert card.startswith("---\nlicense: other\n")
    assert "| train_general | general | 5 | 400 | 400 | code 75.0%, general 25.0% |\n" in card
    assert "| train_code | code | 7 | 600 | 1,000 | code 100.0% |\n" in card
    assert "| micro_tasks | pass@1 | 0.2500 | 0.2400 to 0.2700 | 34 | 1 |\n" in card
    assert "0.7500" not in card  # another checkpoint's
    assert "0.5000" not in card  # a subset's
    assert "* micro_tasks: samples 4\n" in card
    table = [line for line in card.splitlines() if line.endswith(" % |")]
    assert table[0].startswith("| MIT | 1 | 2,")
    assert table[1].startswith("| none found | 1 | 1,")
    assert table[2] == "| X\\|Y &lt;b> Z | 1 | 42 | 1.1 % |"
    assert sum(float(line.split("|")[-2].strip(" %")) for line in table) == pytest.approx(100, abs=0.2)
    for stage in ("train_code", "train_general", "pack", "tokenizer", "split"):
        assert f"| {stage} | " in card.split("## Lineage")[1]
        assert read_manifest(small_run / stage).fingerprint[:12] in card
    assert str(small_run) not in card
    assert "trust_remote_code" not in card
    assert "badly under-trained" in card
    assert "no phase of this checkpoint trained on conversations" in card
    loop = (release / "loop" / "README.md").read_text()
    assert "This checkpoint was not evaluated." in loop
    assert "| loop | instruct | not recorded | not recorded | not recorded | instruct 100.0% |" in loop
    assert 'from_pretrained("FOLDER", trust_remote_code=True)' in loop
    assert "enable_thinking" in loop
    assert "run 2 times (later passes see the last 5 tokens" in loop


def test_lineage_is_in_order_and_names_what_is_gone(small_run: Path, tmp_path: Path) -> None:
    found = lineage(small_run / "loop")
    names = [item.name for item in found]
    assert names[:3] == ["loop", "train_code", "train_general"]
    assert names[-1] == "split"
    assert sorted(names) == sorted(["loop", "train_code", "train_general", "pack", "tokenizer", "split"])
    assert [phase.name for phase in phases(found)] == ["train_general", "train_code", "loop"]
    for item in found:
        assert all(names.index(source) > names.index(item.name) for source in item.inputs)
    moved = tmp_path / "moved"  # a run that was copied is found beside the checkpoint
    shutil.copytree(small_run, moved)
    for path in moved.glob("*/manifest.json"):
        path.write_text(path.read_text().replace(str(small_run), "/nowhere"))
    assert [item.name for item in lineage(moved / "loop")] == names
    manifest = moved / "train_general" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(read_manifest(manifest.parent).fingerprint, "0" * 64))
    changed = {item.name: item.manifest for item in lineage(moved / "loop")}
    assert changed["train_general"] is None
    assert changed["train_code"] is not None


def test_same_bytes_and_going_on(
    release: Path, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digests(folder: Path) -> dict[str, str]:
        return {str(p.relative_to(folder)): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}

    original, calls = publish._write_model, iter(range(100))

    def stop_at_the_third(*arguments: object) -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt
        original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(publish, "_write_model", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        _publish(small_run, tmp_path / "p")
    manifest = _publish(small_run, tmp_path / "p")
    assert next(calls) == 4  # the two that were whole were not written again
    assert digests(tmp_path / "p") == digests(release)
    assert manifest.metrics["remarks"] == ["not evaluated: general, loop"]
    assert manifest.metrics["checkpoints"]["code"]["tokens"] == 1000


def test_published_and_trained_continue_alike(release: Path, small_run: Path) -> None:
    request = GenerateRequest(prompt="def area_3(", max_new_tokens=10)
    assert generate_text(release / "loop", request) == generate_text(small_run / "loop", request)


def test_wrong_inputs_are_refused(small_run: Path, tmp_path: Path) -> None:
    code = {"code": "train_code"}
    for inputs, words in (
        (dict(_SHARED), "no checkpoint among its inputs"),
        ({**code, "tokenizer": "tokenizer"}, "exactly one input of kind 'documents', not 0"),
        ({**code, "documents": "split"}, "exactly one input of kind 'tokenizer', not 0"),
        ({**code, **_SHARED, "tokens": "pack"}, "no use for input 'tokens' of kind 'tokens'"),
        ({**_SHARED, "../code": "train_code"}, "'../code' cannot name a directory"),
    ):
        with pytest.raises(UserError, match=words):
            _publish(small_run, tmp_path / "p", inputs)
    shutil.copytree(small_run, tmp_path / "run")
    path = tmp_path / "run" / "tokenizer" / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    with pytest.raises(UserError, match="another tokenizer"):
        _publish(tmp_path / "run", tmp_path / "p", {**code, **_SHARED})


_SCRIPT = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(1)
found = {}
for folder, remote in json.loads(sys.argv[1]).items():
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=remote).eval()
    assert model.dtype == torch.float32
    messages = [{"role": "user", "content": "Area of 3 and 4?"}]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    rows = []
    for text in ["def area_3(width", "x = 1\\n\\n  # caf\\u00e9 \\u2603"]:
        ids = tokenizer(text, return_tensors="pt")
        prompt = ids["input_ids"][0].tolist()
        made = model.generate(**ids, max_new_tokens=24)[0, len(prompt):].tolist()
        rows.append({"prompt": prompt, "made": made, "text": tokenizer.decode(prompt)})
    found[folder] = {"rows": rows, "chat": tokenizer(rendered)["input_ids"], "length": tokenizer.model_max_length}
open(sys.argv[2], "w").write(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("requirements", ["requirements", "requirements-4.55"])
def test_transformers_continues_as_we_do(release: Path, requirements: str, tmp_path: Path) -> None:
    """Our remote code runs only where the user says `trust_remote_code=True`: for the looped model."""
    python = PEER / ".venv" / requirements / "bin" / "python"
    if not python.exists():
        pytest.fail(f"no {python}: `.venv/bin/python scripts/check_transformers.py` makes it", pytrace=False)
    folders = {str(release / name): name == "loop" for name in ("code", "loop")}
    command = [str(python), "-c", _SCRIPT, json.dumps(folders), str(tmp_path / "found.json")]
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "found.json").read_text())
    tokenizer = Tokenizer.load(release / "code")
    parts = prompt_segments([Message("user", "Area of 3 and 4?")])
    chat, _ = render_segments([{"role": p.role, "text": p.text, "train": p.train} for p in parts], tokenizer)
    settings = GenerateSettings(max_new_tokens=24, stop_ids=(2, 4))
    for folder, theirs in found.items():
        model = load(Path(folder), torch.float32)
        for row in theirs["rows"]:
            assert row["prompt"] == tokenizer.encode(row["text"])
            (ours,) = generate(model, [row["prompt"]], settings)
            assert row["made"] == ours.ids
        assert theirs["chat"] == chat.tolist()
        assert theirs["length"] == 96
