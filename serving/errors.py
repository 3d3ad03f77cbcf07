"""What can go wrong in serving."""

from collections.abc import Mapping


class ServingError(Exception):
    """Something is wrong in the serving process."""


class CheckpointIncompatible(ServingError):
    """A checkpoint cannot replace the one that is live; the message says why."""


class SwapFailed(ServingError):
    """A swap failed; the policy that was live serves again."""


class PolicyLost(ServingError):
    """A swap failed and the old policy could not be put back: this process must restart."""


class RecordingFailed(ServingError):
    """The log did not take an answer's record, and the operator wants no answer without one."""


class RequestError(ServingError):
    """A request that is refused before vLLM sees it."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None,
        code: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = headers
