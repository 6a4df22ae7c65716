"""Research options: each against the second writing, in packed rows, in gradients; and where they are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from codeflow.core.config import validate
from codeflow.core.errors import UserError
from codeflow.model.config import Checkpointing, ModelConfig
from codeflow.model.decode import Decoder
from codeflow.model.fold import FoldSettings, fold
from codeflow.model.huggingface import ExportSettings, load, save
from codeflow.model.looped import LoopCoder
from tests.model.by_hand import by_hand
from tests.model.shapes import SHAPE, changed, make_ids, make_model

CHECKPOINTING: tuple[Checkpointing, ...] = ("none", "full", "selective")
OPTIONS = {
    "embedding": {"reinject_embedding": True},
    "shift": {"shift": True},
    "shift and embedding": {"shift": True, "reinject_embedding": True},
    "gate of hidden state": {"gate_input": "hidden"},
    "gate before rope": {"gate_input": "query_before_rope"},
    "gate per element": {"gate_per_element": True},
    "gate per element of hidden state": {"gate_per_element": True, "gate_input": "hidden"},
    "strict window": {"strict_local_mask": True},
    "all": {
        "reinject_embedding": True,
        "shift": True,
        "gate_input": "hidden",
        "gate_per_element": True,
        "strict_local_mask": True,
    },
}


def _config(name: str, **fields: object) -> ModelConfig:
    return changed(**({"loop_num": 2, "loop_window_size": 4} | fields), research=OPTIONS[name])


@pytest.mark.parametrize("loop", [{"loop_num": 2, "loop_window_size": 4}, {"loop_num": 3, "loop_window_size": 1}])
@pytest.mark.parametrize("name", OPTIONS)
@torch.no_grad()
def test_each_option_is_its_definition(name: str, loop: dict[str, int]) -> None:
    config, ids = _config(name, **loop), make_ids(1, 9)
    model = make_model(config, torch.float64)
    expected = by_hand(model, ids[0])
    torch.testing.assert_close(model.logits(model(ids))[0], expected, rtol=1e-11, atol=1e-11)
    plain = make_model(config.model_copy(update={"research": SHAPE.research}), torch.float64)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "gate_projection" not in k}, strict=False)
    assert float((plain.logits(plain(ids))[0] - expected).abs().max()) > 1e-3  # the option does something


@pytest.mark.parametrize("name", OPTIONS)
@torch.no_grad()
def test_documents_in_a_row_do_not_meet(name: str) -> None:
    model, ids = make_model(_config(name), torch.float64), make_ids(2, 20)
    starts = torch.tensor([[0] * 9 + [9] * 11, [0] + [1] * 2 + [3] * 17])
    packed = model(ids, document_starts=starts)
    for row, begin, end in ((0, 0, 9), (0, 9, 20), (1, 0, 1), (1, 1, 3), (1, 3, 20)):
        torch.testing.assert_close(packed[row, begin:end], model(ids[row : row + 1, begin:end])[0])


@pytest.mark.parametrize("name", OPTIONS)
def test_every_parameter_learns_and_checkpointing_changes_nothing(name: str) -> None:
    gradients = []
    for checkpointing in CHECKPOINTING:
        model = make_model(_config(name))
        model.logits(model(make_ids(2, 12), checkpointing=checkpointing)).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == dict(model.named_parameters()).keys()
    for key, value in gradients[0].items():
        assert all(torch.equal(value, other[key]) for other in gradients[1:]), key
        assert value.isfinite().all()
        assert value.any(), key


@torch.no_grad()
def test_a_fold_with_reinjection_starts_as_the_dense_model() -> None:
    dense, ids = make_model(changed(num_hidden_layers=4)), make_ids(2, 12)
    settings = validate(FoldSettings, {"loop_window_size": 3, "research": {"reinject_embedding": True}})
    looped = fold(dense, settings)
    assert looped.config.research.reinject_embedding
    looped.second_pass_scale = 0.0
    assert torch.equal(looped(ids), dense(ids))


def test_options_without_a_loop_are_refused() -> None:
    with pytest.raises(UserError, match=r"research\.shift=True acts from the second loop on.*set loop_num=2"):
        validate(ModelConfig, SHAPE.model_dump() | {"research": {"shift": True}})
    with pytest.raises(UserError, match=r"research\.gate_input='other'"):
        validate(ModelConfig, SHAPE.model_dump() | {"loop_num": 2, "research": {"gate_input": "other"}})


def test_decoding_refuses_them() -> None:
    with pytest.raises(UserError, match=r"research\.shift=True: research options have no decoding"):
        Decoder(LoopCoder(_config("shift")), 16).prefill([[1, 2, 3]])


@torch.no_grad()
def test_the_released_format_refuses_them_and_a_marked_export_round_trips(tmp_path: Path) -> None:
    model, ids = make_model(_config("all")), make_ids(1, 12)
    with pytest.raises(UserError, match=r"research\.shift=True.*the released format has no research options"):
        save(model, tmp_path)
    assert not list(tmp_path.iterdir())
    save(model, tmp_path, ExportSettings(research="mark"))
    tree = json.loads((tmp_path / "config.json").read_text())
    assert tree["model_type"] == "codeflow_research"
    assert "auto_map" not in tree
    assert not list(tmp_path.glob("*.py"))
    again = load(tmp_path)
    assert again.config == model.config
    assert torch.equal(again(ids), model(ids))
    save(make_model(changed(loop_num=2)), tmp_path, ExportSettings(research="mark"))
    tree = json.loads((tmp_path / "config.json").read_text())
    assert tree["model_type"] == "iquestloopcoder"
    assert "research" not in tree
