"""Sign the manifests of checkpoints, so that only the installation decides what is served.

The signature is an HMAC of the manifest's JSON without it. Since the manifest has the SHA-256 of
every file, it covers the weights too. Not detected: deleted versions, and a writer who has the
installation's secret.
"""

import hmac
import json
from collections.abc import Callable
from pathlib import Path

from google.protobuf import json_format

from protos.checkpoints.registry import CheckpointInvalid
from protos.plaudit.v1.checkpoint_pb2 import Manifest


class ManifestUntrusted(CheckpointInvalid):
    """A manifest has no signature of this installation; the message says what to do."""


class ManifestSigner:
    """Signs manifests with a key that is derived from the installation's secret, and checks them.

    The key is read when it is needed, since the secret may be created later than the registry.
    """

    def __init__(self, secret_file: Path, key: Callable[[Path], bytes]) -> None:
        """Use the secret in `secret_file`, from which `key` derives the key.

        Args:
            secret_file: File of the secret.
            key: Returns the key; creates the file if it is absent.

        """
        self.secret_file = secret_file
        self._key = key

    def sign(self, manifest: Manifest) -> None:
        """Set the signature of a manifest."""
        manifest.ClearField("signature")
        text = json_format.MessageToJson(manifest)
        manifest.signature = _signature(self._key(self.secret_file), text.encode())

    def check(self, manifest: Manifest, data: bytes) -> None:
        """Check the signature of `manifest`, which was parsed from `data`.

        Raises:
            ManifestUntrusted: It is absent or wrong, or the secret is missing.

        """
        subject = f"version {manifest.version}: its manifest"
        if not manifest.signature:
            raise ManifestUntrusted(
                f"{subject} is not signed: an earlier release or somebody else has written it. If "
                "only this installation can have written the registry, run 'plaudit policies "
                "sign' once; otherwise delete the version's folder"
            )
        if not self.secret_file.is_file():
            raise ManifestUntrusted(
                f"{subject} cannot be checked, since {self.secret_file} is missing; copy the "
                "installation's secret.json there"
            )
        if not hmac.compare_digest(
            _signature(self._key(self.secret_file), data), manifest.signature
        ):
            raise ManifestUntrusted(
                f"{subject} was not signed by this installation, or was altered afterwards. If "
                f"{self.secret_file} is not the installation's secret.json, replace it; otherwise "
                "restore the version from a backup or delete its folder"
            )


def _signature(key: bytes, data: bytes) -> bytes:
    """Return the HMAC of a manifest's JSON without its signature, in whatever layout it is."""
    fields = json.loads(data)
    fields.pop("signature", None)
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hmac.digest(key, canonical.encode(), "sha256")
