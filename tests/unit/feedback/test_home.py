"""The home folder: who may read it, before and after a start."""

import logging
import os
import stat
from pathlib import Path

import pytest

from feedback.home import HomeUnusable, open_private, prepare_home
from feedback.opening import open_log

PRIVATE = (
    *("log.db", "log.db-wal", "log.db-shm", "ledger.db"),
    *("secret.json", "kafka.key", "logs/serving.log"),
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def make_open_home(home: Path) -> Path:
    (home / "logs").mkdir(parents=True)
    home.chmod(0o755)
    for name in (*PRIVATE, "notes.txt"):
        (home / name).write_text("text")
        (home / name).chmod(0o644)
    return home


def test_a_new_home_is_for_its_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        prepare_home(tmp_path / "above" / "home")
        with open(tmp_path / "file", "ab", opener=open_private):
            pass
    finally:
        os.umask(old)
    assert mode(tmp_path / "above" / "home") == 0o700
    assert mode(tmp_path / "file") == 0o600


def test_an_open_home_is_closed_once_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = make_open_home(tmp_path / "home")
    prepare_home(home)
    assert mode(home) == 0o700
    assert {mode(home / name) for name in PRIVATE} == {0o600}
    assert mode(home / "notes.txt") == 0o644
    (line,) = caplog.messages
    assert line.startswith("Others had access to ")
    assert all(str(home / name) in line for name in PRIVATE)
    prepare_home(home)
    assert len(caplog.messages) == 1


def test_opening_the_log_closes_the_home(tmp_path: Path) -> None:
    home = make_open_home(tmp_path / "home")
    for file in home.glob("log.db*"):
        file.unlink()
    open_log(home).close()
    assert mode(home) == 0o700
    assert mode(home / "secret.json") == 0o600


def test_modes_are_never_widened(tmp_path: Path) -> None:
    home = make_open_home(tmp_path / "home")
    (home / "secret.json").chmod(0o440)
    prepare_home(home)
    assert mode(home / "secret.json") == 0o400


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")
def test_what_belongs_to_another_user_keeps_its_mode(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = make_open_home(tmp_path / "home")
    home.chmod(0o2770)  # as Kubernetes leaves a volume with fsGroup
    (home / "secret.json").chmod(0o440)
    for path in (home, home / "secret.json", home / "ledger.db"):
        os.chown(path, 4321, 4321)
    prepare_home(home)
    assert (mode(home), mode(home / "secret.json")) == (0o2770, 0o440)
    assert mode(home / "ledger.db") == 0o644
    assert mode(home / "log.db") == 0o600
    warnings = [m for m in caplog.messages if "belongs to user 4321" in m]
    assert len(warnings) == 1, "rights of a group alone are deliberate"
    assert str(home / "ledger.db") in warnings[0]


def test_a_folder_for_all_users_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(0o1777)
    prepare_home(tmp_path)
    assert mode(tmp_path) == 0o1777
    assert "it is a folder for all users" in caplog.text
    assert caplog.records[0].levelno == logging.WARNING


def test_a_home_that_cannot_be_used_is_an_error_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for home in (tmp_path / "file", tmp_path / "file" / "home"):
        with pytest.raises(HomeUnusable, match=r"cannot be created: .*--home"):
            prepare_home(home)
    home = tmp_path / "read-only"
    home.mkdir(0o500)
    if os.geteuid() == 0:  # root may write anywhere but on a read-only disk
        monkeypatch.setattr(os, "access", lambda path, rights: False)
    with pytest.raises(HomeUnusable, match=r"cannot be read and written by user .* read-only"):
        prepare_home(home)
