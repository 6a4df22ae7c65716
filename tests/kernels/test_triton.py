"""The Triton back end: interpreted on CPU, compiled without a GPU, and run on one where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from codeflow.core.errors import UserError
from tests.kernels.cases import cast, gated, gradients, make_inputs, packed, relative

pytest.importorskip("triton", reason="the extra `triton` is not installed")
ROOT = Path(__file__).parents[2]


def test_kernels_in_the_interpreter() -> None:
    """A process of its own: Triton reads TRITON_INTERPRET when it is first imported."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/kernels/interpreted.py"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_without_a_gpu_the_error_says_what_to_do() -> None:
    with pytest.raises(UserError, match="'triton' needs a GPU; use 'cpu'"):
        gated(cast(make_inputs(1, 4), torch.float32), None, 2, "triton")


@pytest.mark.slow
@pytest.mark.parametrize("gate", [0, 1])
def test_kernels_compile_for_an_h100(gate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To machine code for compute capability 9.0, with tensor-core products and within its shared memory."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from codeflow.kernels import triton_fused, triton_kernels

    half, single, whole = "*bf16", "*fp32", "*i32"
    shapes = {
        "forward_kernel": [(*[half] * 7, whole), (half, half, single, single)],
        "d_rows_kernel": [(*[half] * 7, whole), (half, half, single, single), (half, half, single, single, half)],
        "d_keys_kernel": [(*[half] * 6, whole, whole), (half, *[single] * 4), (half,) * 4],
    }
    tiles = (triton_fused.FORWARD_TILES, triton_fused.D_ROWS_TILES, triton_fused.D_KEYS_TILES)
    options = (gate, True, False, True, 0, gate > 0, 128, 128, "ieee", False)
    for (name, tensors), ((block_m, block_n, n_warps, n_stages), *_) in zip(shapes.items(), tiles, strict=True):
        kernel, n = getattr(triton_kernels, name), len(tensors)
        kinds = [*tensors, ("i32",) * 4, "fp32", *["constexpr"] * 3]
        source = ASTSource(
            kernel,
            signature=dict(zip(kernel.arg_names, kinds, strict=True)),
            constexprs={(n + 2,): options, (n + 3,): block_m, (n + 4,): block_n},
            attrs={(i, j): [["tt.divisibility", 16]] for i, group in enumerate(tensors) for j in range(len(group))},
        )
        settings = {"num_warps": n_warps, "num_stages": n_stages}
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=settings)
        assert compiled.asm["cubin"], name
        assert "wgmma.mma_async" in compiled.asm["ptx"], name
        assert compiled.metadata.shared <= 227 * 1024, name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize(("window", "elementwise", "strict"), [(64, False, False), (200, True, True)])
@pytest.mark.parametrize("backend", ["triton", "flash"])
def test_on_a_gpu(
    backend: str, head_dim: int, window: int, elementwise: bool, strict: bool, dtype: torch.dtype, tolerance: float
) -> None:
    if backend == "flash" and (dtype == torch.float32 or not find_spec("flash_attn")):
        pytest.skip("FlashAttention is not installed or does not take fp32")
    documents = packed([[100, 1, 411], [512]])
    inputs = cast(make_inputs(2, 512, head_dim=head_dim, elementwise=elementwise), dtype)
    exact_inputs = cast(inputs, torch.float64)
    exact = gradients(gated(exact_inputs, documents, window, "reference", strict), exact_inputs)
    there = [x.detach().cuda().requires_grad_() for x in inputs]
    on_gpu = packed([[100, 1, 411], [512]], device="cuda")
    for ours, best in zip(gradients(gated(there, on_gpu, window, backend, strict), there), exact, strict=True):
        assert relative(ours.cpu(), best) < tolerance
