"""The number format that this machine's processor, or its GPUs, compute in."""

import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Literal, cast

from deploy.errors import DeployError

Dtype = Literal["float32", "bfloat16"]

# x86 instruction sets with bfloat16 dot products. Without them bfloat16 is emulated: a model of
# 135 million parameters was served and trained at a third of its float32 speed.
_NATIVE_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})
_BFLOAT16_CAPABILITY = 8.0  # of NVIDIA's GPUs, from Ampere on


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the processor's flags, or an empty set if `cpuinfo` does not list them."""
    if not cpuinfo.is_file():
        return frozenset()
    for line in cpuinfo.read_text().splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def query_gpus(field: str) -> list[str]:
    """Return a property of each GPU from nvidia-smi; none unless vLLM's GPU build is installed."""
    built = any(d.metadata["Name"] == "vllm" for d in metadata.distributions())
    if not built or shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()


def best_dtype(flags: frozenset[str], capabilities: Sequence[str] = ()) -> Dtype:
    """Return the number format that is fastest on the GPUs or, without any, on the processor.

    Args:
        flags: Flags of the processor.
        capabilities: Compute capability of each GPU, such as 9.0.

    """
    if capabilities:
        native = all(float(each) >= _BFLOAT16_CAPABILITY for each in capabilities)
    else:
        native = bool(flags & _NATIVE_BFLOAT16)
    return "bfloat16" if native else "float32"


def parse_dtype(name: str) -> Dtype:
    """Return the number format named by a `--dtype` option; `auto` is the fastest on this device.

    Raises:
        DeployError: The name is unknown.

    """
    if name == "auto":
        return best_dtype(cpu_flags(), query_gpus("compute_cap"))
    if name in ("float32", "bfloat16"):
        return cast(Dtype, name)
    raise DeployError(f"unknown number format '{name}'; use auto, float32 or bfloat16")
