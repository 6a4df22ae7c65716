"""Compiled blocks: the same gradients, code made once for all layers, and clear words where there is no compiler.

torch's own tracer and derivatives run in all of them; the compiler behind them, which takes seconds a graph, in one.
"""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from codeflow.core.errors import UserError
from codeflow.kernels import cpu
from codeflow.model import compilation
from codeflow.model.compilation import compile_blocks
from codeflow.model.config import Checkpointing, ModelConfig
from codeflow.model.looped import LoopCoder
from tests.model.shapes import SHAPE, changed, make_ids, make_model

LOOPED = changed(loop_num=2, loop_window_size=6)
RESEARCH = changed(
    loop_num=3,
    loop_window_size=3,
    research={"gate_input": "hidden", "gate_per_element": True, "reinject_embedding": True, "shift": True},
)
STARTS = ([[0] * 9 + [9] * 11, [0] * 20], [[0] * 20, [0] * 20], [[0] * 5 + [5] * 15, [0] * 2 + [2] * 18])
POSITIONS = torch.arange(20).expand(2, -1)


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the compiler out: graphs run as torch's own operations."""
    monkeypatch.setattr(compilation, "_COMPILER", "aot_eager")


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def step(
    model: LoopCoder, number: int, checkpointing: Checkpointing = "none", rows: int = 2
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return loss and gradients of packed rows, each step with documents of its own and further on a ramp."""
    model.second_pass_scale = min(1.0, 0.3 + 0.2 * number)
    model.zero_grad()
    ids = make_ids(rows, 20)
    starts = torch.tensor(STARTS[number % len(STARTS)])[:rows]
    hidden = model(ids, POSITIONS[:rows], starts, checkpointing=checkpointing)
    loss = model.logits(hidden).square().mean()
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def compare(model: LoopCoder, compiled: LoopCoder, n_steps: int, tolerance: float, **settings: object) -> None:
    for number in range(n_steps):
        loss, expected = step(model, number, **settings)  # type: ignore[arg-type]
        found_loss, found = step(compiled, number, **settings)  # type: ignore[arg-type]
        assert found_loss.item() == pytest.approx(loss.item(), rel=tolerance)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert gradient.any(), name
            assert (found[name] - gradient).abs().max() <= tolerance * gradient.abs().max(), name


@pytest.mark.usefixtures("traced_only")
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("config", [SHAPE, LOOPED, RESEARCH], ids=["dense", "looped", "research options"])
def test_gradients_are_those_of_the_plain_model(config: ModelConfig, backend: str) -> None:
    model = make_model(config)
    compiled = copy.deepcopy(model)
    model.attention_backend = compiled.attention_backend = backend
    compile_blocks(compiled)
    compare(model, compiled, 2, 1e-5)


@pytest.mark.usefixtures("traced_only")
def test_five_steps_compile_each_part_once_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the documents, and whatever the scale of a fold's ramp."""
    for config, n_graphs in ((SHAPE, 2), (LOOPED, 4)):  # looped: with gates, and with a scale, as well
        torch.compiler.reset()
        model = make_model(config.model_copy(update={"num_hidden_layers": 4}))
        compile_blocks(model)
        counters.clear()
        step(model, 0)
        assert counters["stats"]["unique_graphs"] == n_graphs
        with torch._dynamo.config.patch(error_on_recompile=True):
            for number in range(1, 5):
                step(model, number)
        assert counters["stats"]["unique_graphs"] == n_graphs


@pytest.mark.usefixtures("traced_only")
def test_whole_blocks_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(LOOPED)
    compiled = copy.deepcopy(model)
    compile_blocks(compiled)
    calls: list[str] = []
    monkeypatch.setattr(
        cpu, "_apply", lambda f, *inputs, real=cpu._apply: (calls.append(f.__name__), real(f, *inputs))[1]
    )
    compare(model, compiled, 1, 1e-5, checkpointing="full")
    assert len(calls) == 2 * 2 * 2 * SHAPE.num_hidden_layers  # models, passes, loops


@pytest.mark.usefixtures("traced_only")
def test_watched_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that stand in for the shared ones reach the compiled code, and get gradients of their own."""
    model = make_model(LOOPED)
    expected, _ = _tapped_gradients(model)
    unwatched = step(model, 3)[1]
    assert any((g - unwatched[n]).abs().max() > 1e-2 * g.abs().max() for n, g in expected.items())
    compiled = copy.deepcopy(model)
    compile_blocks(compiled)
    for _ in range(2):  # before and after steps that are not watched
        found, names = _tapped_gradients(compiled)
        assert found.keys() == expected.keys()
        assert all((found[n] - g).abs().max() <= 1e-5 * g.abs().max() for n, g in expected.items())
        compare(model, compiled, 1, 1e-5)
    assert names == {
        name for name, _ in compiled.named_parameters() if "layers" in name and "gate_projection" not in name
    }


def _tapped_gradients(model: LoopCoder) -> tuple[dict[str, Tensor], set[str]]:
    """Return gradients where later loops compute with 0.9 times the shared weights; and the names of those."""
    names: set[str] = set()

    class Tap:
        def weight(self, loop: int, name: str, weight: Tensor) -> Tensor:
            names.add(name)
            return 0.9 * weight

        def border(self, loop: int, gradient: Tensor) -> None: ...

    model.loop_tap = Tap()
    gradients = {name: gradient.clone() for name, gradient in step(model, 3)[1].items()}
    model.loop_tap = None
    return gradients, names


@pytest.mark.usefixtures("traced_only")
def test_passes_without_gradients_run_uncompiled() -> None:
    model = make_model(LOOPED)
    ids = make_ids(2, 20)
    expected = model(ids)
    compile_blocks(model)
    counters.clear()
    with torch.no_grad():
        assert torch.equal(model(ids), expected)
    assert not counters["stats"]["unique_graphs"]


def test_models_after_each_other_count_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch gives up on code that was compiled for eight kinds of inputs; phases of a chain are more than that."""
    monkeypatch.setattr(compilation, "_COMPILER", "eager")
    for length in range(4, 14):
        model = make_model(SHAPE.model_copy(update={"num_hidden_layers": 1}))
        compile_blocks(model)
        model(make_ids(1, length)).sum().backward()


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_compiled_code(dtype: torch.dtype, tolerance: float) -> None:
    model = make_model(LOOPED, dtype)
    compiled = copy.deepcopy(model)
    compile_blocks(compiled)
    compare(model, compiled, 3, tolerance)
    first, again = step(compiled, 1)[1], step(compiled, 1)[1]
    assert all(torch.equal(gradient, again[name]) for name, gradient in first.items())


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise FileNotFoundError("no g++")

    monkeypatch.setattr(compilation, "_COMPILER", fails)
    with pytest.raises(UserError, match=r"compile=blocks.*no g\+\+.*install a C\+\+ compiler.*compile=none"):
        compile_blocks(make_model(SHAPE))


@pytest.mark.slow
@pytest.mark.parametrize("warm", [False, True], ids=["nothing compiled before", "the same compiled before"])
def test_no_compiler_on_the_path(warm: bool, tmp_path: Path) -> None:
    """What torch really says of a machine without one."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    environment.pop("CXX", None)
    if warm:
        assert _check_in_child(environment) == "works"
    said = _check_in_child({**environment, "PATH": str(tmp_path)})
    assert re.search(r"^compile=blocks: .*compiler.*; install a C\+\+ compiler", said), said
    assert len(said.splitlines()) == 1


def _check_in_child(environment: dict[str, str]) -> str:
    code = """
import torch
from codeflow.core.errors import UserError
from codeflow.model.compilation import _check_compiler
try:
    _check_compiler(torch.device("cpu"))
    print("works")
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()
