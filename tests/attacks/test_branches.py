"""Branches behind walls: what one reaches of its origin, of another branch, and of the server.

A branch is as far from its origin and from other branches as two sessions are. Its origin is not
as far from it: it could change what a branch begins with, so it is trusted by its branches.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from kernelry import Config, ExecutionStatus, Run, Session, Sessions, SessionSpec
from kernelry.errors import KernelryError
from kernelry.lives import promote
from kernelry.processes import family, number_inside
from kernelry.scripts import run_script
from tests.attacks.conftest import need
from tests.attacks.test_bite import Rule, weaken
from tests.attacks.world import Level
from tests.faults.kernels import HANG, printed, run, until, value

#: what a session tries on another one: each prints what came of it
ATTEMPTS = """
import ctypes, json, os, signal, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def asked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
def listed(): os.listdir(FOLDER)
def read(): open(FOLDER + "/secret").read()
def written(): open(FOLDER + "/secret", "a").close()
def made(): open(FOLDER + "/new", "w").close()
def moved(): os.rename(FOLDER, FOLDER + ".moved"); os.rename(FOLDER + ".moved", FOLDER)
def linked(): os.symlink("/etc", FOLDER + "/link")
def signalled(): os.kill(PID, 0)
def signalled_by_descriptor(): signal.pidfd_send_signal(os.pidfd_open(PID), 0)
def traced():
    asked(libc.ptrace(16, PID, 0, 0)); os.waitpid(PID, 0); asked(libc.ptrace(17, PID, 0, 0))
def memory(): os.pread(os.open(f"/proc/{PID}/mem", os.O_RDONLY), 1, 1 << 20)
def environment(): open(f"/proc/{PID}/environ").read()
def descriptors(): os.readlink(f"/proc/{PID}/fd/0")
def connected():
    with socket.socket(socket.AF_UNIX) as client: client.connect(os.path.relpath(LISTENS))
def connected_in_the_workspace():
    with socket.socket(socket.AF_UNIX) as client: client.connect(os.path.relpath(SOCKET))
def channel():
    with socket.socket(socket.AF_UNIX) as client: client.connect(CHANNEL)
through = []
for attempt in (listed, read, written, made, moved, linked, signalled, signalled_by_descriptor,
                traced, memory, environment, descriptors, connected,
                connected_in_the_workspace, channel):
    try:
        attempt()
        through.append(attempt.__name__)
    except OSError as error:
        pass
print(json.dumps(through))
"""
LISTENS = """
import os, socket
mine = socket.socket(socket.AF_UNIX); here = os.getcwd(); os.chdir({folder!r})
mine.bind('listens'); mine.listen(); os.chdir(here)
shown = socket.socket(socket.AF_UNIX); shown.bind(f'{name}.sock'); shown.listen()
_ = open({folder!r} + '/secret', 'w').write('of {name}')
"""


@pytest.fixture(params=["guard", "box"])
def level(request: pytest.FixtureRequest) -> Level:
    found: Level = request.param
    need_level(found)
    return found


@pytest.fixture
async def live(config: Config, level: Level) -> AsyncIterator[Sessions]:
    async with Sessions(replace(config, isolation=level)) as service:
        yield service


def need_level(level: Level) -> None:
    """Skip where there is no such level; in a thread, as it runs a loop of its own."""
    import threading

    failed: list[BaseException] = []

    def ask() -> None:
        try:
            need(level)
        except BaseException as error:
            failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join()
    if failed:
        raise failed[0]


async def listening(live: Sessions, session: Session) -> None:
    """Have a session listen in its own folder and in the workspace, and keep a secret."""
    folder = str(session.directory / "tmp")
    await printed(live, session, LISTENS.format(folder=folder, name=session.id))


async def through(live: Sessions, session: Session, victim: Session) -> set[str]:
    """Return what of all attempts on another session got through."""
    assert victim.kernel is not None
    given = {
        "FOLDER": str(victim.directory / "tmp"),
        "LISTENS": str(victim.directory / "tmp" / "listens"),
        "PID": number_inside(victim.kernel.process.leader),
        "SOCKET": str(live.workspace.root / f"{victim.id}.sock"),
        "CHANNEL": f"{victim.kernel.record.path}-1",
    }
    lines = "\n".join(f"{name} = {value!r}" for name, value in given.items())
    return set(json.loads(await printed(live, session, lines + ATTEMPTS)))


async def branch_of(live: Sessions, origin: Session, name: str) -> Session:
    """Return a live branch."""
    (made,) = (await live.branching.create(origin, SessionSpec(id=name))).branches
    assert made.is_live, made.why
    return made.session


async def test_a_branch_reaches_nothing_of_its_origin_nor_of_others(live: Sessions) -> None:
    origin = await live.create(SessionSpec(id="a"))
    first = await branch_of(live, origin, "b")
    second = await branch_of(live, origin, "c")
    below = await branch_of(live, first, "d")
    everybody = (origin, first, second, below)
    for session in everybody:
        await listening(live, session)
    for session in (first, second, below):
        for victim in everybody:
            if session is not victim and not (session is first and victim is below):
                found = await through(live, session, victim)
                assert not found, (session.id, victim.id, found)
    # Its origin is trusted by a branch: it has its walls, less the branch's own.
    found = await through(live, origin, second)
    assert not found & {"connected", "connected_in_the_workspace", "channel"}, found
    assert {"read", "written", "signalled"} <= found
    assert await through(live, origin, first) == await through(live, first, below)


async def test_a_branch_reaches_itself(live: Sessions) -> None:
    """The attempts work where nothing stands against them."""
    origin = await live.create(SessionSpec(id="a"))
    session = await branch_of(live, origin, "b")
    await listening(live, session)
    found = await through(live, session, session)
    assert found >= {"listed", "read", "written", "made", "linked", "signalled", "descriptors"}
    assert {"connected", "connected_in_the_workspace"} <= found


async def test_a_branch_whose_origin_is_gone_is_as_far_from_others(live: Sessions) -> None:
    origin = await live.create(SessionSpec(id="a"))
    first = await branch_of(live, origin, "b")
    second = await branch_of(live, origin, "c")
    await live.delete("a")
    for session in (first, second):
        await listening(live, session)
    assert not await through(live, first, second)
    found = await through(live, first, first)
    assert {"connected", "connected_in_the_workspace"} <= found
    later = await branch_of(live, first, "d")
    await listening(live, later)
    assert not await through(live, later, first)
    assert {"connected", "connected_in_the_workspace"} <= await through(live, later, later)


async def test_a_branch_reaches_nothing_of_the_server(live: Sessions) -> None:
    session = await branch_of(live, await live.create(SessionSpec(id="a")), "b")
    state = live.sessions_dir.parent
    code = f"""
import os
found = []
for path in ({str(state)!r}, {str(state / "kernelry.sqlite")!r}, {str(state / "checkpoints")!r},
             {str(live.sessions_dir)!r}, {str(state / "branches")!r}):
    try:
        os.close(os.open(path, os.O_RDONLY)); found.append(path)
    except OSError: pass
for pid in ({os.getpid()}, {live.fork_server_pid}):
    try:
        os.kill(pid, 0); found.append(pid)
    except OSError: pass
print(found)
"""
    assert (await printed(live, session, code)).strip() == "[]"


#: a rule -> the line that keeps it, what stands there instead, and what gets through then
RULES = {
    "a branch's walls are narrowed": (
        ("starting/launcher.py", "guard.narrow(old, new)", "pass"),
        {"listed", "read", "written", "signalled", "environment"},
    ),
    "each kernel connects to its own": (
        (
            "starting/doorkeeping.py",
            "return self.members[pid].reach",
            "return next(iter(self.members.values())).reach",
        ),
        {"connected", "connected_in_the_workspace"},
    ),
}


@pytest.mark.parametrize("name", RULES)
async def test_without_its_rule_a_branch_reaches_its_origin(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, level: Level
) -> None:
    patch, expected = RULES[name]
    weaken(Rule("", frozenset(), patch=patch), tmp_path, monkeypatch, looking=False)
    async with Sessions(replace(config, isolation=level)) as live:
        origin = await live.create(SessionSpec(id="a"))
        session = await branch_of(live, origin, "b")
        await listening(live, origin)
        assert expected <= await through(live, session, origin)


async def test_where_walls_can_not_be_narrowed_a_branch_has_a_kernel_of_its_own(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a box on Linux before 6.12, which does without Landlock."""
    need_level("box")
    patch = ("walls/guard.py", "NEEDED_ABI = 6", "NEEDED_ABI = 99")
    weaken(Rule("", frozenset(), patch=patch), tmp_path, monkeypatch, looking=False)
    async with Sessions(replace(config, isolation="box", kernel_start="spawn")) as live:
        origin = await live.create(SessionSpec(id="a"))
        await printed(live, origin, "import threading; lock = threading.Lock(); x = 5")
        (made,) = (await live.branching.create(origin, SessionSpec(id="b"))).branches
        assert not made.is_live and "can't be narrowed" in made.why
        assert [item.name for item in made.left_out] == ["lock"]
        kept = await live.checkpoints.create(origin, live=True)
        await printed(live, origin, "x = 6")
        await live.checkpoints.restore(kept.id, origin)  # the walls stay the same
        assert await value(live, origin, "(x, lock.locked())") == "(5, False)"


#: code of a branch, which looks for what a session kept in its folder
STEALS = """
import os
found = []
for name in ("TMPDIR", "HOME"):
    try: found.append(open(os.path.join(os.environ[name], "..", "tmp", "kept")).read())
    except OSError: pass
open("stolen", "w").write(repr(found))
"""
#: what an origin puts in the place of a branch's folder -> how
PUT = {
    "a link to another session's": "os.symlink({victim!r}, {folder!r})",
    "a link above it": "os.rename({above!r}, {above!r} + '.x'); os.symlink({victim!r}, {above!r})",
    "a file": "open({folder!r}, 'w').close()",
    "nothing": "0",
}


@pytest.mark.parametrize("put", PUT)
async def test_what_an_origin_puts_where_a_branch_was_leads_nobody_elsewhere(
    live: Sessions, put: str
) -> None:
    """All that the server does there it does beneath: at the end, at a start, for a script."""
    origin = await live.create(SessionSpec(id="a"))
    victim = await live.create(SessionSpec(id="victim"))
    heir = await live.create(SessionSpec(id="heir"))
    victim.environment.site.joinpath("kept_by_the_victim.py").write_text("open('promoted', 'w')")
    (victim.directory / "kernel.log").write_text("kept")
    await printed(live, victim, "import os; open(os.environ['TMPDIR'] + '/kept', 'w').write('1')")
    first = await branch_of(live, origin, "b")
    below = await branch_of(live, first, "c")
    folder, above = str(below.directory), str(below.directory.parent)
    before = tree(victim.directory)
    moved = f"import os\nos.rename({folder!r}, {folder!r} + '.moved')\n"
    moved += PUT[put].format(victim=str(victim.directory), folder=folder, above=above)
    assert (await run(live, origin, moved)).status is ExecutionStatus.COMPLETED
    (live.workspace.scripts / "s.py").write_text("print(1)")
    for act in (
        lambda: run_script(below, "s.py", [], timeout=30),
        lambda: live.run(below, "1"),
        lambda: promote(live.checkpoints, below, heir, 5.0),
        lambda: live.run(heir, "import kept_by_the_victim"),
        lambda: below.environment.copy_files(heir.directory / "stolen", heir.walls),
        lambda: live.branching.create(below, SessionSpec(id="e")),
        lambda: live.checkpoints.create(below, name="n"),
        lambda: below.restart(),
        lambda: live.run(below, STEALS),
        lambda: live.checkpoints.create(below, name="m"),
        lambda: live.delete("e"),
        lambda: live.delete("c"),
        lambda: live.delete("b"),
        lambda: live.delete("a"),
    ):
        try:
            async with asyncio.timeout(30):
                done = await act()
                if isinstance(done, Run):
                    await done.wait(HANG)
        except (KernelryError, OSError):  # it may fail: it is its origin that had it so
            pass
        assert tree(victim.directory) == before
    stolen = live.workspace.root / "stolen"
    assert not stolen.exists() or stolen.read_text() == "[]"
    assert not (live.workspace.root / "promoted").exists()
    assert not list(heir.directory.rglob("stolen/**/kept_by_the_victim.py"))
    assert await value(live, victim, "open(os.environ['TMPDIR'] + '/kept').read()") == "'1'"
    await until(lambda: not branches_of(live, origin), "its area goes with it")


def branches_of(live: Sessions, origin: Session) -> list[str]:
    """Return what is left in the area of a session."""
    area = live.sessions_dir.parent / "branches" / origin.directory.name
    return sorted(os.listdir(area)) if area.is_dir() else []


def tree(folder: Path) -> dict[str, int]:
    """Return the paths and sizes of what is in a folder, but for what its kernel writes there."""
    passing = {"journal.jsonl", "touched", "spill"}
    return {
        str(path.relative_to(folder)): path.lstat().st_size
        for path in folder.rglob("*")
        if not passing & set(path.relative_to(folder).parts)
    }


def has_ended(pid: int) -> bool:
    """Say whether a process is gone, or only to be waited for."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def seen_from_outside(session: Session, number: int) -> int:
    """Return which of a session's processes has a number for itself."""
    assert session.kernel is not None
    members = family(session.kernel.process.leader)
    return next(pid for pid in members if number_inside(pid) == number)


ORPHAN = """
import os, socket, sys, time
while os.getppid() == int(sys.argv[1]): pass
try:
    with socket.socket(socket.AF_UNIX) as client: client.connect({socket!r})
    told = "connected"
except OSError as error:
    told = "refused"
open("orphan.txt.new", "w").write(told)
os.rename("orphan.txt.new", "orphan.txt")
time.sleep(600)
"""


def starting(program: str) -> str:
    """Return code that starts a program which bears no mark, and prints its pid."""
    return (
        "import os, subprocess, sys\n"
        f"program = [sys.executable, '-I', '-c', {program!r}, str(os.getpid())]\n"
        "left = subprocess.Popen(program, env={}, start_new_session=True)\nprint(left.pid)"
    )


@pytest.mark.parametrize("groups", [True, False], ids=["groups", "no groups"])
async def test_what_a_dead_branch_left_is_ended(config: Config, groups: bool, level: Level) -> None:
    """It becomes its origin's child, and bears no name: its rank was set before, and stays."""
    settings = replace(config, isolation=level, control_groups=groups)
    async with Sessions(settings) as live:
        origin = await live.create(SessionSpec(id="a"))
        session = await branch_of(live, origin, "b")
        await listening(live, origin)
        number = int(await printed(live, session, starting(ORPHAN.format(socket="a.sock"))))
        pid = seen_from_outside(session, number)
        assert not has_ended(pid)
        died = await run(live, session, "os._exit(3)")
        assert died.status is ExecutionStatus.DIED
        await until(lambda: has_ended(pid), "it is ended")
        assert await value(live, origin, "1 + 1") == "2"


async def test_what_a_dead_branch_left_connects_to_nothing_while_it_lives(
    config: Config, monkeypatch: pytest.MonkeyPatch, level: Level
) -> None:
    """Between its kernel's end and its own it is a child of its origin's kernel."""
    monkeypatch.setattr("kernelry.engines.branching.end_orphans", lambda pid: None)
    async with Sessions(replace(config, isolation=level, control_groups=False)) as live:
        origin = await live.create(SessionSpec(id="a"))
        session = await branch_of(live, origin, "b")
        await listening(live, origin)
        number = int(await printed(live, session, starting(ORPHAN.format(socket="a.sock"))))
        pid = seen_from_outside(session, number)
        assert (await run(live, session, "os._exit(3)")).status is ExecutionStatus.DIED
        told = live.workspace.root / "orphan.txt"
        await until(told.exists, "it has tried")
        assert told.read_text() == "refused"
        assert not has_ended(pid)
    await until(lambda: has_ended(pid), "it goes with its origin")
