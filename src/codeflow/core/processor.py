"""What this machine's processor can do, asked without loading torch."""

from __future__ import annotations

import functools
import platform

from llvmlite.binding import get_host_cpu_features

_BF16 = ("avx512bf16", "amx-bf16", "bf16")  # x86, x86, ARM; as LLVM names them


@functools.cache
def multiplies_bf16() -> bool:
    """True where the processor has bf16 instructions that torch's products use.

    Apple's processors count as without: torch multiplies there with a library that has no bf16.
    """
    features = get_host_cpu_features()
    return platform.system() != "Darwin" and any(features.get(name) for name in _BF16)


@functools.cache
def has_avx512() -> bool:
    """True where vectors of sixteen fp32 numbers, and thirty-two registers for them, are at hand."""
    return bool(get_host_cpu_features().get("avx512f"))
