"""The reserve of a disk: what is free of it stays free of votes and records of answers.

A full disk would also stop what frees it: erasing, retention, revoking keys, swaps. So votes and
records are refused while there is still room for those.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from feedback.errors import FeedbackError


class DiskLow(FeedbackError):
    """Less than the reserve is free."""


@dataclass(frozen=True, slots=True)
class DiskReserve:
    """The space that must stay free on the disk of a folder.

    Attributes:
        folder: Folder on the disk.
        size: Size of the reserve, in bytes; 0 for none.

    """

    folder: Path
    size: int

    def check(self) -> None:
        """Refuse to store more if less than the reserve is free.

        Raises:
            DiskLow: The message says how much is free.

        """
        if not self.size:
            return
        free = shutil.disk_usage(self.folder).free
        if free < self.size:
            raise DiskLow(
                f"only {free >> 20} MiB are free on the disk of {self.folder}, less than the "
                f"reserve of {self.size >> 20} MiB, so no votes and records of answers are "
                "stored. Free some space, for example with 'plaudit policies prune --keep 5'"
            )
