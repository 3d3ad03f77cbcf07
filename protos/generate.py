"""Regenerate the protobuf code beside the `.proto` files: `python -m protos.generate`.

The files are compiled from the repository's root, so that the generated modules import each
other by their full package names.
"""

from importlib import resources
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def generate(out: Path = ROOT) -> None:
    """Write `*_pb2.py` and `*_pb2.pyi` of every `.proto` file below `out`.

    Raises:
        RuntimeError: The compiler rejected a file; it has printed why.

    """
    from grpc_tools import protoc

    include = str(resources.files("grpc_tools") / "_proto")
    sources = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("protos/plaudit/v1/*.proto"))
    arguments = ["protoc", f"-I{ROOT}", f"-I{include}", f"--python_out={out}", f"--pyi_out={out}"]
    if protoc.main(arguments + [str(ROOT / s) for s in sources]) != 0:
        raise RuntimeError("protoc failed; see its message above")


if __name__ == "__main__":
    generate()
