"""Which number format the processor computes in."""

from pathlib import Path
from typing import Literal

Dtype = Literal["float32", "bfloat16"]

# x86 instruction sets with bfloat16 dot products. Without them bfloat16 is emulated, and a
# 135M model was served at a third and trained at a third of its float32 speed.
_NATIVE_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Read the processor's flags; empty where the file does not name them."""
    if not cpuinfo.is_file():
        return frozenset()
    for line in cpuinfo.read_text().splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def best_dtype(flags: frozenset[str]) -> Dtype:
    """Choose the format that the processor is fastest in."""
    return "bfloat16" if flags & _NATIVE_BFLOAT16 else "float32"
