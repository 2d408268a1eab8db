"""What an interpreter outside of the walls is told of the server's variables."""

from pathlib import Path

import pytest

from kernelry.packages import Interpreters
from kernelry.walls import Walls


def test_what_sessions_can_change_is_left_out_and_what_is_no_path_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a server that was started in the workspace, where any word could be a path."""
    monkeypatch.chdir(tmp_path)
    outside, own = "/usr/lib", str(tmp_path / "src")
    given = {
        "PYTHONHASHSEED": "0",
        "PYTHONWARNINGS": "ignore::DeprecationWarning",
        "NO_COLOR": "",
        "PATH": f"{own}:/bin",
        "PYTHONPATH": f"{own}:{outside}::src",
        "LD_LIBRARY_PATH": own,
        "LD_PRELOAD": f"{outside}/a.so {own}/b.so",
    }
    kept = Interpreters(Walls(), [tmp_path]).without_changeable(given)
    same = {name: given[name] for name in ("PYTHONHASHSEED", "PYTHONWARNINGS", "NO_COLOR", "PATH")}
    assert kept == same | {"PYTHONPATH": outside, "LD_PRELOAD": f"{outside}/a.so"}
