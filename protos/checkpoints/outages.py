"""Recognise outages of a remote store by the exceptions of fsspec's drivers, and retry."""

import logging
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import tenacity

logger = logging.getLogger(__name__)

_RETRY_DELAYS: Final = (0.5, 1.0, 2.0, 4.0)  # seconds
_T = TypeVar("_T")


def retry_outages(action: Callable[[], _T], url: str) -> _T:
    """Run `action`; run it again after a delay if the store at `url` does not answer.

    Raises:
        Exception: What the last try raised; an error that is no outage is raised at once.

    """

    def log_retry(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        logger.warning("the registry %s is unavailable, trying again: %s", url, error)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_outage),
        wait=tenacity.wait_chain(*map(tenacity.wait_fixed, _RETRY_DELAYS)),
        stop=tenacity.stop_after_attempt(len(_RETRY_DELAYS) + 1),
        before_sleep=log_retry,
        reraise=True,
    )
    return retrying(action)


def is_outage(error: BaseException) -> bool:
    """Return whether an exception means that the remote store did not answer."""
    if isinstance(error, FileNotFoundError | FileExistsError):
        return False
    return isinstance(error, _driver_errors())


def _driver_errors() -> tuple[type[BaseException], ...]:
    """Return the exceptions of the drivers that are loaded."""
    found: list[Any] = [OSError, TimeoutError]
    for module, name in (
        ("botocore.exceptions", "BotoCoreError"),
        ("botocore.exceptions", "ClientError"),
        ("aiohttp", "ClientError"),
    ):
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)
