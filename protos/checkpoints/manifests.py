"""Parse and check the manifests of checkpoints.

A manifest comes from a store that others may be able to write, so what it names is checked before
anything is read or written: a file name must not lead out of the checkpoint's folder, and counts
and sizes are bounded.
"""

import re
from typing import Final

from google.protobuf import json_format

from protos.checkpoints.registry import MANIFEST, CheckpointInvalid
from protos.checkpoints.signatures import ManifestSigner
from protos.plaudit.v1.checkpoint_pb2 import FileDigest, Manifest

MAX_MANIFEST_BYTES: Final = 1 << 20
MAX_FILES: Final = 1000
MAX_CHECKPOINT_BYTES: Final = 1 << 40  # of all files together
_MAX_PATH: Final = 255
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_FORBIDDEN: Final = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')  # control characters, not portable


def parse_manifest(data: bytes, version: int, signer: ManifestSigner | None = None) -> Manifest:
    """Parse the manifest of a version, and check it and its signature.

    Args:
        data: Content of the manifest's file.
        version: Version that it must be of.
        signer: Checks the signature; None accepts any manifest.

    Raises:
        CheckpointInvalid: It is unreadable, belongs to another version, or must not be used.

    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise CheckpointInvalid(
            f"version {version}: {MANIFEST} has more than {MAX_MANIFEST_BYTES} bytes"
        )
    try:
        manifest = json_format.Parse(data, Manifest(), ignore_unknown_fields=True)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointInvalid(f"version {version}: {MANIFEST} is unreadable") from error
    if manifest.version != version:
        raise CheckpointInvalid(f"version {version}: its manifest is of version {manifest.version}")
    if signer is not None:
        signer.check(manifest, data)
    check_manifest(manifest)
    return manifest


def signed_manifest(data: bytes, version: int, signer: ManifestSigner | None) -> bytes | None:
    """Return the content of a manifest's file with a signature; None if it has one, valid or not.

    Raises:
        CheckpointInvalid: It is unreadable, belongs to another version, or must not be used.

    """
    manifest = parse_manifest(data, version)
    if manifest.signature or signer is None:
        return None
    signer.sign(manifest)
    return json_format.MessageToJson(manifest, indent=2).encode()


def check_manifest(manifest: Manifest) -> None:
    """Check the file names, counts and sizes of a manifest.

    Raises:
        CheckpointInvalid: It must not be used; the message says why.

    """
    prefix, files = f"version {manifest.version}: its manifest", manifest.files
    if len(files) > MAX_FILES:
        raise CheckpointInvalid(f"{prefix} names {len(files)} files; at most {MAX_FILES} may be")
    size = sum(digest.size for digest in files)
    if size > MAX_CHECKPOINT_BYTES:
        raise CheckpointInvalid(
            f"{prefix} names {size} bytes in all; at most {MAX_CHECKPOINT_BYTES} may be"
        )
    if len({digest.path for digest in files}) < len(files):
        raise CheckpointInvalid(f"{prefix} names a file twice")
    for digest in files:
        if not _is_valid(digest):
            raise CheckpointInvalid(
                f"{prefix} has the entry {digest.path!r}, which is no plain file name with a "
                "SHA-256; somebody has altered the manifest, or the model folder has a file that "
                "must be renamed"
            )


def _is_valid(digest: FileDigest) -> bool:
    """Return whether a file lies in the checkpoint's folder; subfolders may be named."""
    path = digest.path
    return (
        0 < len(path.encode()) <= _MAX_PATH
        and path != MANIFEST
        and not _FORBIDDEN.search(path)
        and not {"", ".", ".."} & {*path.split("/")}
        and _SHA256.fullmatch(digest.sha256) is not None
    )
