"""A vLLM plug-in that ends the engine's process together with the server that started it.

vLLM loads it in each of its processes. Without it, a server killed by SIGKILL would leave its
engine running, with its memory and its share of the processor.
"""

import multiprocessing

from serving.engine.forking import end_with_parent


def register() -> None:
    """Make the kernel kill this process with its parent, if it is a child process."""
    if multiprocessing.parent_process() is not None:
        end_with_parent()
