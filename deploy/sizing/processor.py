"""The number format that this machine's processor computes in."""

from pathlib import Path
from typing import Literal, cast

from deploy.errors import DeployError

Dtype = Literal["float32", "bfloat16"]

# x86 instruction sets with bfloat16 dot products. Without them bfloat16 is emulated: a model of
# 135 million parameters was served and trained at a third of its float32 speed.
_NATIVE_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the processor's flags, or an empty set if `cpuinfo` does not list them."""
    if not cpuinfo.is_file():
        return frozenset()
    for line in cpuinfo.read_text().splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def best_dtype(flags: frozenset[str]) -> Dtype:
    """Return the number format that is fastest on a processor with these flags."""
    return "bfloat16" if flags & _NATIVE_BFLOAT16 else "float32"


def parse_dtype(name: str) -> Dtype:
    """Return the number format named by a `--dtype` option; `auto` is the processor's fastest.

    Raises:
        DeployError: The name is unknown.

    """
    if name == "auto":
        return best_dtype(cpu_flags())
    if name in ("float32", "bfloat16"):
        return cast(Dtype, name)
    raise DeployError(f"unknown number format '{name}'; use auto, float32 or bfloat16")
