"""Durable writes and the headers of safetensors files."""

import stat
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from protos.checkpoints.durable import create_file, partial_path, replace_folder, write_bytes
from protos.checkpoints.tensors import tensor_shapes


def test_a_file_is_replaced_without_leftovers(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for content in (b"old", b"new"):
        write_bytes(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_created_once_with_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    create_file(path, b"first", mode=0o600)
    with pytest.raises(FileExistsError):
        create_file(path, b"second")
    assert path.read_bytes() == b"first"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_another_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for name in ("a", "b"):
        staged = partial_path(target)
        staged.mkdir()
        (staged / name).write_text(name)
        replace_folder(staged, target)
    assert [p.name for p in target.iterdir()] == ["b"]
    assert list(tmp_path.iterdir()) == [target]


def test_shapes_are_read_from_the_header(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    tensors = {"b": np.zeros((3, 4), np.int8), "a": np.zeros((), np.float32)}
    save_file(tensors, file, metadata={"format": "pt"})
    assert tensor_shapes(file) == {"a": [], "b": [3, 4]}


@pytest.mark.parametrize("kept", [0, 4, 30])
def test_a_damaged_header_is_an_error(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": np.zeros((3, 4), np.int8)}, file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(SafetensorError):
        tensor_shapes(file)
