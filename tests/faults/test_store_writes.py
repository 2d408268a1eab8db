"""D6: single writes and syncs of the store fail, by strace, in a process of their own."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kernelry.output.fold import Stream
from tests.acceptance.harness import REPOSITORY, unavailable

from .matrix import fault
from .records import add_session, integrity, opened

HANG = 60.0  # seconds after which a disk that works again is not used again
HOPELESS = 3.0  # seconds for one that never works again


def script_under_strace(
    path: Path, *inject: str, seconds: float = HOPELESS
) -> subprocess.CompletedProcess[str]:
    """Run the script on a database with one session while system calls fail."""
    strace = shutil.which("strace")
    if strace is None:
        unavailable("there is no strace")
    injections = [option for each in inject for option in ("-e", f"inject={each}")]
    calls = ("-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64,fsync,fdatasync")
    script = (sys.executable, "-m", "tests.faults.records", str(path), "8", str(seconds))
    done = subprocess.run(
        [strace, *calls, *injections, *script],
        capture_output=True,
        encoding="utf-8",
        cwd=REPOSITORY,
        timeout=2 * HANG,
    )
    if "PTRACE" in done.stderr and "not permitted" in done.stderr:
        unavailable("strace may not trace here")
    return done


async def check_what_was_said(path: Path, done: subprocess.CompletedProcess[str]) -> None:
    """What the process said to be saved is there; if it did not start, it says why."""
    if done.returncode:
        assert "kernelry.errors.StoreError: can't open" in done.stderr, done.stderr
        return
    saved = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("saved ")]
    async with opened(path) as store:
        assert store.moved_aside is None
        for each in saved:
            execution = await store.execution(each)
            assert execution is not None, (each, done)
            assert execution.outputs == (Stream("stdout", "x" * 3000),)
    assert integrity(path) == "ok"


@pytest.fixture
async def fresh(tmp_path: Path) -> Callable[[object], Path]:
    """Makes databases with one session."""
    original = tmp_path / "original.sqlite"
    async with opened(original) as store:
        await add_session(store)

    def make(name: object) -> Path:
        return Path(shutil.copy(original, tmp_path / f"{name}.sqlite"))

    return make


@fault("D6")
async def test_whichever_write_fails_once_nothing_is_lost(fresh: Callable[[object], Path]) -> None:
    started = 0
    for k, error in zip(range(1, 51), ["ENOSPC", "EIO"] * 25, strict=True):
        path = fresh(k)
        done = script_under_strace(path, f"pwrite64:error={error}:when={k}", seconds=HANG)
        await check_what_was_said(path, done)
        if not done.returncode:
            started += 1
            assert done.stdout.splitlines()[-1] == "unsaved 0", (k, done)
            assert done.stdout.count("saved s-") == 8, (k, done)
    assert started > 30


@fault("D6")
async def test_when_all_writes_fail_from_some_on_nothing_is_claimed(
    fresh: Callable[[object], Path],
) -> None:
    unsaved = 0
    for k in range(16, 56, 8):
        path = fresh(k)
        done = script_under_strace(path, f"pwrite64:error=ENOSPC:when={k}+")
        await check_what_was_said(path, done)
        unsaved += done.stdout != "" and "unsaved 0" not in done.stdout
    assert unsaved == 5


@fault("D6")
@pytest.mark.parametrize("when", ["1", "2", "3", "1+", "2+"])
async def test_whichever_sync_fails_nothing_is_claimed(
    fresh: Callable[[object], Path], when: str
) -> None:
    path = fresh(when)
    done = script_under_strace(path, f"fsync,fdatasync:error=EIO:when={when}")
    await check_what_was_said(path, done)
