"""Read the headers of safetensors files."""

from pathlib import Path

from safetensors import safe_open


def tensor_shapes(file: Path) -> dict[str, list[int]]:
    """Return the shape of each tensor in a safetensors file, by name, without loading any.

    Raises:
        OSError: The file cannot be read.
        safetensors.SafetensorError: It is not a whole safetensors file.

    """
    with safe_open(file, framework="numpy") as tensors:
        names: list[str] = tensors.keys()
        return {name: list(tensors.get_slice(name).get_shape()) for name in names}
