"""The number format of a processor."""

from pathlib import Path

from deploy.sizing.processor import best_dtype, cpu_flags


def test_dtype_follows_the_processor(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16\n")
    assert best_dtype(cpu_flags(info)) == "bfloat16"
    info.write_text("processor: 0\nflags\t\t: fpu avx2 avx512f\n")
    assert best_dtype(cpu_flags(info)) == "float32"
    assert best_dtype(cpu_flags(tmp_path / "absent")) == "float32"


def test_a_gpu_decides_before_the_processor() -> None:
    assert best_dtype(frozenset(), ["9.0", "8.0"]) == "bfloat16"
    assert best_dtype(frozenset({"avx512_bf16"}), ["9.0", "7.5"]) == "float32"
