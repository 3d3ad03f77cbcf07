"""A vLLM plug-in: the engine's process ends when the server that started it is gone.

vLLM loads it in each of its processes. Without it, a server ended by SIGKILL leaves its engine
behind, which keeps its memory and its share of the processor.
"""

import ctypes
import multiprocessing
import signal

_PR_SET_PDEATHSIG = 1


def register() -> None:
    """Ask the kernel to end this process with its parent, where it is a child."""
    if multiprocessing.parent_process() is not None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
