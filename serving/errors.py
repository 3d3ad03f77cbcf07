"""Exceptions of the serving process."""


class ServingError(Exception):
    """Base class of the serving process's errors."""


class CheckpointIncompatible(ServingError):
    """A checkpoint cannot replace the one that is live; the message says why."""


class SwapFailed(ServingError):
    """A swap failed; the policy that was live serves again."""


class PolicyLost(ServingError):
    """A swap failed and the old policy could not be restored: this process must restart."""


class RecordingFailed(ServingError):
    """An answer's record could not be written, and the settings demand one for every answer."""
