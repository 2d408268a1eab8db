"""What is said of a kernel that Linux ended: its session's limit, or the machine's memory."""

from pathlib import Path

import pytest

from kernelry.processes import Exit, Group
from kernelry.session import inspection

KILLED = Exit(-9)


def group(folder: Path, **files: str) -> Group:
    """A control group as Linux shows it, in files of either version."""
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    events = "memory.events" if (folder / "memory.events").exists() else "memory.oom_control"
    return Group(folder, events)


def test_a_session_that_met_its_own_limit_is_told_that(tmp_path: Path) -> None:
    second = group(tmp_path, memory__events="oom 1\noom_kill 1\n", memory__peak="300000000")
    said = inspection.killed_by_linux(second, 300_000_000, 0)
    assert said == "killed by Linux: all memory was used, limit 300.0 MB"


def test_a_session_that_the_machine_had_no_memory_for_is_told_its_own_peak(tmp_path: Path) -> None:
    second = group(tmp_path, memory__events="oom 0\noom_kill 1\n", memory__peak="90000000")
    said = inspection.killed_by_linux(second, 18_957_400_000, 0)
    assert said == (
        "killed by Linux: the machine ran out of memory; this session's peak was 90.0 MB"
    )


def test_the_first_version_tells_by_its_peak(tmp_path: Path) -> None:
    first = group(
        tmp_path,
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        memory__limit_in_bytes="400000000",
        memory__max_usage_in_bytes="90000000",
    )
    assert "the machine ran out" in inspection.killed_by_linux(first, 300_000_000, 0)
    (tmp_path / "memory.max_usage_in_bytes").write_text("400000000")
    assert "limit 300.0 MB" in inspection.killed_by_linux(first, 300_000_000, 0)


def test_without_a_group_the_machine_s_count_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "oom_kills", lambda: 8)
    assert inspection.how_ended(KILLED, 8, 0) == "it ended by itself: killed by SIGKILL"
    said = inspection.how_ended(KILLED, 7, 90_000_000)
    assert said.endswith("ran out of memory (this session's peak was 90.0 MB)")
    assert inspection.how_ended(Exit(3), 7, 0) == "it ended by itself: exit code 3"


def test_a_kernel_that_ended_near_its_limit_of_memory_is_told_with_it() -> None:
    lack = inspection.lack_of_memory((60_000_000, 350_000_000), 300_000_000)
    said = inspection.how_ended(Exit(1), 0, 0, lack)
    assert "its variables took 290.0 MB of the 300.0 MB that are its limit" in said
    assert inspection.how_ended(Exit(0), 0, 0, lack) == "it ended by itself: exit code 0"


def test_what_a_kernel_has_itself_is_not_told_as_its_variables() -> None:
    for before, after, limit in (
        (90_000_000, 95_000_000, 100_000_000),
        (60_000_000, 250_000_000, 300_000_000),
        (0, 350_000_000, 300_000_000),
    ):
        assert inspection.lack_of_memory((before, after), limit) == ""
    assert inspection.lack_of_memory((1, 350_000_000), 0) == ""
