"""T7: nothing of a session lives on, however it tried to leave it, and whatever ended it.

Processes are found by a mark that only the test knows, in what they were told. All ways of
scripts/leaving.py are gone at once, in a cell, a script, the first kernel of a server, a build.
"""

import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from tests.acceptance.harness import Place, RawServer, until
from tests.attacks.conftest import need
from tests.attacks.world import Level
from tests.package_index import Index, sdist, serving

LEAVING = Path(__file__).parent / "scripts" / "leaving.py"
HANG = 60.0
#: ways of scripts/leaving.py by which there is a process at once, whatever walls refuse, and
#: though orphans of the fork server are ended as soon as it sees them; at guard the kernel has
#: them, so there are most, also a program that no library makes do anything
AT_LEAST: dict[Level, int] = {"process": 13, "guard": 20, "box": 13}
BUILD = {
    "pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = 'backend'\n"
    "backend-path = ['.']\n",
    "backend.py": "def build_wheel(*args, **kwargs):\n    exec(open('leaving.py').read())\n",
}
Where = Literal["cell", "first cell", "script", "build"]
End = Literal["delete_session", "SIGTERM", "SIGKILL"]
WHERE: tuple[Where, ...] = ("cell", "first cell", "script", "build")
ENDS: tuple[End, ...] = ("delete_session", "SIGTERM", "SIGKILL")


def marked(mark: str) -> dict[int, str]:
    """Return the processes that were told the mark: pid -> what they were told."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        told = [word.decode() for word in words if word.endswith(f".{mark}".encode())]
        if told and state != "Z":
            found[int(folder.name)] = told[0]
    return found


@pytest.fixture
def index() -> Iterator[Index]:
    """Where builds come from."""
    with serving() as index:
        yield index


@pytest.fixture
def mark() -> Iterator[str]:
    """What only this test knows; who bears it is ended in any case."""
    mark = str(secrets.randbelow(10**12) + 10**12)
    yield mark
    while found := marked(mark):
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def go(server: RawServer, index: Index, where: Where, mark: str) -> None:
    """Go all the ways."""
    text = f"MARK = {mark!r}\n{LEAVING.read_text(encoding='utf-8')}"
    match where:
        case "cell" | "first cell":
            done = server.tool("run_python_code", code=text, session_id="attacker", wait=HANG)
            assert done["status"] == "completed", done
        case "script":
            server.tool("save_script", name="leaving", content=text)
            done = server.tool("run_script", path="leaving", session_id="attacker", timeout=HANG)
            assert done["returncode"] == 0, done
            assert "processes that it had left running" in done["stderr"]
        case "build":
            index.files |= sdist("leaving", BUILD | {"leaving.py": text})
            server.tool("install_dependencies", packages=["leaving"], session_id="attacker")


CASES: list[tuple[Level, Where, End, bool]] = [
    *(("guard", where, end, False) for where in WHERE for end in ENDS),
    *(("guard", "cell", end, True) for end in ENDS),
    *(("process", where, end, False) for where in WHERE for end in ENDS[::2]),
    *(("box", where, end, False) for where in ("cell", "script") for end in ENDS[::2]),
]


@pytest.mark.parametrize(("level", "where", "end", "groups"), CASES)
def test_nothing_that_tried_to_leave_a_session_outlives_it(
    place: Place, index: Index, mark: str, level: Level, where: Where, end: End, groups: bool
) -> None:
    need(level)
    flags: tuple[str, ...] = ("--isolation", level, "--orphan-timeout", "1", "--allow-sdist")
    flags += () if groups else ("--no-control-groups",)
    env = {"UV_DEFAULT_INDEX": index.url, "UV_CACHE_DIR": str(place.root / "uv-cache")}
    with RawServer(place, flags, env=env) as server:
        if where != "first cell":
            sockets = "kernelry/*/*.sock"
            assert until(lambda: len(list(place.runtime.glob(sockets))) == 2, HANG)
        server.tool("create_session", session_id="attacker")
        go(server, index, where, mark)
        if where in ("cell", "first cell"):  # they were there: the test sees what it looks for
            assert len(set(marked(mark).values())) >= AT_LEAST[level], marked(mark)
        match end:
            case "delete_session":
                server.tool("delete_session", session_id="attacker")
            case "SIGTERM":
                server.process.terminate()
            case "SIGKILL":
                server.process.kill()
        if end != "delete_session":
            server.process.wait(HANG)
        assert until(lambda: not marked(mark), HANG), marked(mark)
    if end == "SIGKILL":  # sockets are the next server's to remove
        assert not place.survivors(HANG)
        shutil.rmtree(place.runtime / "kernelry")
