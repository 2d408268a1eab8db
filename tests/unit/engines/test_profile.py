"""Which fork server of an earlier server can stand in for a new one."""

import os
import shutil
from pathlib import Path

import pytest

from kernelry.engines import forkserver
from kernelry.engines.forkserver import Profile
from kernelry.walls import INSIDE


def test_a_fork_server_with_another_code_for_kernels_is_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "inside"
    shutil.copytree(INSIDE.parent, copy)
    monkeypatch.setattr(forkserver, "INSIDE", copy / "__main__.py")
    profile = Profile(python=Path("python"), env={}, directory=tmp_path, log_file=tmp_path / "log")
    before = profile.digest(["shell"])
    assert profile.digest(["shell"]) == before
    newest = max(path.stat().st_mtime for path in copy.rglob("*.py"))
    os.utime(copy / "walls" / "guard.py", (newest + 10, newest + 10))
    assert profile.digest(["shell"]) != before
