"""The kernel's side of bounded output: exact counts, whatever the split."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

INSIDE = Path(__file__).parents[3] / "kernels" / "kernelry" / "inside" / "kernel"


def load(name: str) -> ModuleType:
    """Load a file of the kernel's side as the kernel does: not as ours."""
    spec = importlib.util.spec_from_file_location(f"inside_{name}", INSIDE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


budget = load("budget")


def make(folder: Path, **sizes: int) -> Any:
    config = {
        "head_chars": 10,
        "tail_chars": 5,
        "spill_bytes": 40,
        "displays": 3,
        "rich_bytes": 100,
        "spill_dir": str(folder),
    }
    return budget.Budget("m", budget.Limits(config | sizes))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.text(alphabet="aé\U0001f600", max_size=30), max_size=12))
def test_every_character_is_sent_or_kept_or_counted(tmp_path: Path, pieces: list[str]) -> None:
    path = tmp_path / "m.txt"
    path.unlink(missing_ok=True)
    it = make(tmp_path)
    sent = "".join(it.take("stdout", piece) for piece in pieces)
    summary = it.summary()
    it.close()
    whole = "".join(pieces)
    kept = path.read_text(encoding="utf-8") if path.exists() else ""
    assert sent == whole[: len(sent)]
    assert len(sent) <= 10
    assert kept == whole[len(sent) : len(sent) + len(kept)]
    assert len(kept.encode()) <= 40
    assert summary["chars"] == len(kept)
    assert len(sent) + summary["chars"] + summary["dropped"] == len(whole)
    if summary["totals"]:
        assert summary["tails"]["stdout"] == whole[len(sent) :][-5:]


def test_a_result_after_a_flood_is_still_sent(tmp_path: Path) -> None:
    it = make(tmp_path)
    it.take("stdout", "x" * 100)
    assert it.take("display", "42") == "42"


def test_displays_beyond_their_number_become_lines_of_the_spill_file(tmp_path: Path) -> None:
    it = make(tmp_path)
    sent = [i for i in range(5) if it.take_display() or it.spill_display(str(i))]
    assert sent == [0, 1, 2]
    assert it.summary()["displays"] == 2
    assert (tmp_path / "m.txt").read_text(encoding="utf-8") == "3\n4\n"


def test_a_full_disk_is_counted_as_dropped(tmp_path: Path) -> None:
    it = make(tmp_path / "file" / "below")
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    it.take("stdout", "x" * 100)
    assert it.summary()["dropped"] == 90


def test_lone_surrogates_become_escapes() -> None:
    assert budget.encodable("a\ud800b") == "a\\ud800b"


def test_the_oldest_spill_files_make_room_for_new_ones(tmp_path: Path) -> None:
    for number in range(30):
        spilling = make(tmp_path, spill_bytes=1000)
        spilling.path = str(tmp_path / f"{number:02}.txt")
        spilling.take("stdout", "x" * 2000)
        spilling.close()
        os.utime(spilling.path, ns=(number, number))
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == [f"{number:02}.txt" for number in range(21, 30)]
