"""Dense to loop: which layers go where, and the identity fold as the dense model's exact continuation."""

from __future__ import annotations

import pytest
import torch

from codeflow.core.errors import UserError
from codeflow.model.fold import FoldSettings, fold, folded_config, sources
from tests.model.shapes import changed, make_ids, make_model


def test_sources_of_each_strategy() -> None:
    assert sources("identity", 3) == [(0,), (1,), (2,)]
    assert sources("average", 5) == [(0, 1), (2, 3), (4,)]
    assert sources("every_second", 5) == [(0,), (2,), (4,)]
    assert sources("ends", 8) == [(0,), (1,), (6,), (7,)]
    assert sources("ends", 5) == [(0,), (1,), (4,)]
    assert sources("ends", 1) == [(0,)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_identity_at_scale_zero_is_the_dense_model_exactly(dtype: torch.dtype) -> None:
    dense, ids = make_model(changed(num_hidden_layers=4), dtype), make_ids(2, 30)
    looped = fold(dense, FoldSettings(loop_num=3, loop_window_size=5))
    looped.second_pass_scale = 0.0
    assert torch.equal(looped(ids), dense(ids))
    losses = []
    for scale in (0.0, 1e-3, 1.0):
        looped.second_pass_scale = scale
        losses.append(float((looped(ids) - dense(ids)).float().abs().max()))
    assert losses[0] == 0 < losses[1] < losses[2]
    assert "second_pass_scale" not in looped.state_dict()


def test_gates_start_open_half_and_weights_are_copies() -> None:
    dense = make_model(changed(num_hidden_layers=4))
    looped = fold(dense, FoldSettings(strategy="every_second"))
    assert looped.config.num_hidden_layers == 2
    for layer, origin in ((0, 0), (1, 2)):
        theirs = dense.get_submodule(f"layers.{origin}").state_dict()
        ours = looped.get_submodule(f"layers.{layer}").state_dict()
        for name, value in theirs.items():
            assert torch.equal(ours[name], value)
        assert not ours["gate_projection.weight"].any()
        assert not ours["gate_projection.bias"].any()
    with torch.no_grad():
        looped.norm.weight.add_(1)
    assert not torch.equal(looped.norm.weight, dense.norm.weight)


def test_average_is_the_mean_of_neighbours() -> None:
    dense = make_model(changed(num_hidden_layers=4))
    looped = fold(dense, FoldSettings(strategy="average"))
    name = "self_attn.q_proj.weight"
    expected = (dense.get_parameter(f"layers.2.{name}") + dense.get_parameter(f"layers.3.{name}")) / 2
    torch.testing.assert_close(looped.get_parameter(f"layers.1.{name}"), expected)


def test_a_looped_model_is_not_folded_again() -> None:
    with pytest.raises(UserError, match="looped already"):
        folded_config(changed(loop_num=2), FoldSettings())
