"""One way to start the processes that tests kill: forked from a server that has imported them.

All processes of a session share one fork server, and the modules that it preloads are set once:
a second `set_forkserver_preload` would replace the first, and every process would import PyTorch
for itself, which takes longer than what it is started for.
"""

import multiprocessing
from typing import Final

FORKS: Final = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "learner.cycle.lease",
        "learner.cycle.service",
        "tests.support.faults.follower",
        "tests.support.faults.leader",
    ]
)
