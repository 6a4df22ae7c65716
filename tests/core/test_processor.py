"""What the processor is said to do, by the features that LLVM names."""

from __future__ import annotations

import pytest

from codeflow.core import processor
from codeflow.core.processor import has_avx512, multiplies_bf16


@pytest.mark.parametrize(
    ("system", "feature", "bf16", "avx512"),
    [
        ("Linux", "avx512f", False, True),
        ("Linux", "avx512bf16", True, False),
        ("Linux", "amx-bf16", True, False),
        ("Linux", "bf16", True, False),
        ("Darwin", "bf16", False, False),
        ("Linux", "avx2", False, False),
    ],
)
def test_features(monkeypatch: pytest.MonkeyPatch, system: str, feature: str, bf16: bool, avx512: bool) -> None:
    monkeypatch.setattr(processor.platform, "system", lambda: system)
    monkeypatch.setattr(processor, "get_host_cpu_features", lambda: {"avx512bf16": False, feature: True})
    assert multiplies_bf16.__wrapped__() is bf16
    assert has_avx512.__wrapped__() is avx512
