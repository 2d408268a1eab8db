"""T6: what is used counts, also what no process has mapped, and what scripts use.

Each attack takes more than twice its limit in a way that a look at processes does not see. It
must not end as if nothing were; at level `process`, without control groups, it does.
"""

import asyncio
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kernelry import Config, ExecutionStatus, Limits, Sessions, SessionSpec
from kernelry.processes import can_group
from kernelry.scripts import run_script
from tests.acceptance.harness import unavailable
from tests.attacks.conftest import need
from tests.attacks.world import Level

HANG = 60.0
LIMIT = 300 << 20
MARK = f"kernelry-memory-{secrets.token_hex(4)}"
SHARED = Path("/dev/shm")
FILL = "block = b'x' * (1 << 20)\n"
#: attack -> what a cell does
ATTACKS = {
    "a file in memory without a name": (
        "import os\nfd = os.memfd_create('x')\nfor i in range(700): os.write(fd, block)\n"
    ),
    "files in shared memory that are open for moments": (
        "for i in range(70):\n"
        f"    with open(f'/dev/shm/{MARK}-{{i}}', 'wb') as file:\n"
        "        for n in range(10): file.write(block)\n"
    ),
    "shared memory that was given back to nobody": (
        "import mmap\nshared = mmap.mmap(-1, 700 << 20)\n"
        "for i in range(700):\n"
        "    shared[i << 20 : (i + 1) << 20] = block\n"
        "    shared.madvise(mmap.MADV_DONTNEED)\n"
    ),
    "files beside its sockets": (
        "with open(RUNTIME + '/file', 'wb') as file:\n    for i in range(700): file.write(block)\n"
    ),
}
#: where an attack gets through: (level, with a control group); docs/security.md says so
THROUGH = {
    "a file in memory without a name": {("process", False)},
    "shared memory that was given back to nobody": {
        ("process", False), ("guard", False), ("box", False),
    },
    "files in shared memory that are open for moments": {("process", False)},
    "files beside its sockets": {("process", False), ("process", True)},
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """Remove what an attack has left, where it could."""
    yield
    for path in SHARED.glob(f"{MARK}*"):
        path.unlink()


def told(config: Config, level: Level, grouped: bool) -> Config:
    """Return the settings of a server at a level, with control groups or without."""
    limits = Limits(memory=LIMIT, processes=20)
    start = "auto" if level == "box" else config.kernel_start
    return replace(
        config, isolation=level, control_groups=grouped, limits=limits, warm=0, kernel_start=start
    )


async def need_all(level: Level, grouped: bool) -> None:
    """Skip what can't be had here."""
    await asyncio.to_thread(need, level)
    if grouped and not can_group():
        unavailable("no control groups can be made here")


@pytest.mark.parametrize("grouped", [True, False], ids=["groups", "no groups"])
@pytest.mark.parametrize("level", ["process", "guard", "box"])
@pytest.mark.parametrize("attack", ATTACKS)
async def test_memory_that_no_process_shows_is_counted_or_refused(
    config: Config, attack: str, level: Level, grouped: bool
) -> None:
    await need_all(level, grouped)
    async with Sessions(told(config, level, grouped)) as sessions:
        session = await sessions.create(SessionSpec(id="attacker"))
        neighbour = await sessions.create(SessionSpec(id="neighbour"))
        await session.ensure_kernel()
        assert session.kernel is not None
        folder = session.kernel.record.path.rpartition("/")[0]
        code = FILL + ATTACKS[attack].replace("RUNTIME", repr(folder)) + "import time\n"
        running = await sessions.run(session, code + "time.sleep(1)")
        assert await running.wait(HANG)
        got_through = running.snapshot().status is ExecutionStatus.COMPLETED
        expected = (level, grouped) in THROUGH[attack]
        assert got_through is expected, running.snapshot()
        beside = await sessions.run(neighbour, "6 * 7")
        assert await beside.wait(HANG)
        assert beside.snapshot().status is ExecutionStatus.COMPLETED
        await sessions.delete("attacker")
        if level != "process":
            assert not list(SHARED.glob(f"{MARK}*"))


@pytest.mark.parametrize("grouped", [True, False], ids=["groups", "no groups"])
@pytest.mark.parametrize("level", ["process", "guard", "box"])
@pytest.mark.parametrize(
    ("many", "why"),
    [("15, 40 << 20", "of memory, limit 314.6 MB]"), ("40, 1", "processes, limit 20]")],
    ids=["memory", "processes"],
)
async def test_what_a_script_uses_counts_for_its_session(
    config: Config, level: Level, grouped: bool, many: str, why: str
) -> None:
    await need_all(level, grouped)
    async with Sessions(told(config, level, grouped)) as sessions:
        session = await sessions.create(SessionSpec(id="attacker"))
        await sessions.run(session, "kept = 1")
        (sessions.workspace.root / "scripts" / "many.py").write_text(
            "import os, time\n"
            f"count, size = {many}\n"
            "for i in range(count):\n"
            "    if not os.fork():\n"
            "        held = bytearray(b'x') * size\n"
            "        time.sleep(60)\n"
            "time.sleep(60)\n"
        )
        done = await run_script(session, "many.py", (), timeout=HANG)
        assert done.returncode < 0
        assert done.stderr.endswith(why) or "Killed" in done.stderr, done
        after = await sessions.run(session, "kept")
        assert await after.wait(HANG)
        assert after.snapshot().status is ExecutionStatus.COMPLETED
