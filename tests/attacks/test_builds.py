"""T25: a build from source, which runs its author's code, reaches nothing but its own wheel.

A hostile build tries what scripts/building.py has; hostile wheels are what builds may leave.
"""

import asyncio
import io
import json
import os
import socket
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kernelry import Config, Session, Sessions, SessionSpec
from tests.acceptance.harness import until
from tests.attacks.conftest import need
from tests.attacks.world import Level
from tests.package_index import Index, buildable, in_use, wheel

SPY = Path(__file__).parent / "scripts" / "building.py"
HANG = 120.0  # seconds
SECRET = "s3cret-of-the-index"
#: what gets through at level `process`, as docs/security.md says
AT_PROCESS = {
    "secret file", "link", "uv's cache, read", "uv's cache", "state", "slots", "other slot",
    "its own slot", "uv's next cache", "its tools", "workspace", "neighbour", "tcp", "index",
    "other variables",
}  # fmt: skip
ANYWHERE = {"other variables"}  # at `process`: only where the server may be looked into
LEVELS: list[Level] = ["process", "guard", "box"]
#: ways in which uv may be told a password of an index
WAYS = ["address", "old address", "netrc", "file", "variables"]
INFO = "bad-1.0.dist-info"
BOMB = 80 << 20  # bytes


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Index]:
    """An index that uv uses."""
    with in_use(wheel("tiny"), monkeypatch, tmp_path) as index:
        yield index


def tell(way: str, index: Index, place: Path, patch: pytest.MonkeyPatch) -> Path:
    """Tell uv the password of an index in one of the ways; return a file that has it too."""
    index.password = f"user:{SECRET}"
    told = index.url.replace("//", f"//user:{SECRET}@")
    file = place / "secret"
    file.write_text(f"password {SECRET}")
    match way:
        case "address":
            patch.setenv("UV_DEFAULT_INDEX", told)
        case "old address":
            patch.delenv("UV_DEFAULT_INDEX")
            patch.setenv("UV_INDEX_URL", told)
            patch.setenv("PIP_INDEX_URL", told)
        case "netrc":
            file.write_text(f"machine 127.0.0.1 login user password {SECRET}")
            patch.setenv("NETRC", str(file))
        case "file":
            patch.delenv("UV_DEFAULT_INDEX")
            file.write_text(f'[[index]]\nurl = "{told}"\ndefault = true\n')
            patch.setenv("UV_CONFIG_FILE", str(file))
        case _:
            patch.setenv("UV_DEFAULT_INDEX", f"company={index.url}")
            patch.setenv("UV_INDEX_COMPANY_USERNAME", "user")
            patch.setenv("UV_INDEX_COMPANY_PASSWORD", SECRET)
    return file


def spying(places: dict[str, Any]) -> dict[str, bytes]:
    """Return a source whose build tries everything."""
    given = f"{{'out': out, 'PLACES': {places!r}}}"
    code = f"exec({SPY.read_text(encoding='utf-8')!r}, {given})"
    return buildable("hostile", {}, code=code)


async def own(session: Session) -> dict[str, str]:
    """Return what a session has installed itself."""
    return {item.name: item.version for item in await session.packages() if item.own}


def tree(folder: Path) -> dict[str, int]:
    """Return all that is in a folder, with what was changed when."""
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("level", "way"), [("process", WAYS[0]), ("box", WAYS[0]), *(("guard", way) for way in WAYS)]
)
async def test_a_hostile_build_reaches_nothing_but_its_wheel(
    config: Config,
    index: Index,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    level: Level,
    way: str,
) -> None:
    await asyncio.to_thread(need, level)
    place = tmp_path / "of-the-user"
    place.mkdir()
    file = tell(way, index, place, monkeypatch)
    cache = tmp_path / "uv-cache"
    index.files |= wheel("above", requires=("hostile", "tiny"))
    allowed = replace(config, allow_sdist=True, isolation=level, network=level == "process", warm=0)
    with socket.create_server(("127.0.0.1", 0)) as service:
        service.setblocking(False)
        async with Sessions(allowed) as sessions:
            neighbour = await sessions.create(SessionSpec(id="neighbour"))
            assert (await neighbour.install(["tiny"], timeout=HANG)).installation.installed
            index.files |= spying(
                {
                    "secret": SECRET,
                    "secret_file": str(file),
                    "cache": str(cache),
                    "state": str(sessions.state_dir),
                    "workspace": str(config.workspace),
                    "port": service.getsockname()[1],
                    "index": index.server_port,
                }
            )
            attacker = await sessions.create(SessionSpec(id="attacker"))
            before = tree(cache)
            done = (await attacker.install(["above"], timeout=HANG)).installation
            assert done.returncode == 0, done.stderr
            found = json.loads((attacker.environment.site / "hostile.json").read_text())
            through = {name for name, (got, _) in found.items() if got}
            if level == "process":
                assert through - ANYWHERE == AT_PROCESS - ANYWHERE, found
                return
            assert through == set(), {name: found[name] for name in through}
            with pytest.raises(BlockingIOError):
                service.accept()
            assert not (config.workspace / "canary").exists()
            new = [Path(path).name for path in set(tree(cache)) - set(before)]
            assert not [name for name in new if "hostile" in name and not name.endswith(".rkyv")]
            assert not (cache / "poison").exists()
            log = attacker.environment.log.path.read_text()
            assert SECRET not in log + done.stderr + done.stdout


async def test_a_build_has_the_network_that_its_session_has(config: Config, index: Index) -> None:
    await asyncio.to_thread(need, "guard")
    allowed = replace(config, allow_sdist=True, isolation="guard", network=True)
    with socket.create_server(("127.0.0.1", 0)) as service:
        port = service.getsockname()[1]
        code = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 5).close()"
        index.files |= buildable("caller", code=code)
        async with Sessions(allowed) as sessions:
            without = await sessions.create(SessionSpec(id="without", network=False))
            done = (await without.install(["caller"], timeout=HANG)).installation
            assert "it has no network" in done.stderr and await own(without) == {}
            with_it = await sessions.create(SessionSpec(id="with"))
            done = (await with_it.install(["caller"], timeout=HANG)).installation
            assert done.installed == ("caller==1.0",), done.stderr
            service.accept()[0].close()


@pytest.mark.parametrize("level", LEVELS)
async def test_what_a_build_has_left_running_ends_with_it(
    config: Config, index: Index, level: Level
) -> None:
    await asyncio.to_thread(need, level)
    mark = f"kernelry-left-{os.getpid()}-{level}"
    code = (
        "import subprocess\n"
        f"argv = [sys.executable, '-c', 'while True: pass', {mark!r}]\n"
        "subprocess.Popen(argv, start_new_session=True, stdout=2, stderr=2)\n"
    )
    index.files |= buildable("leaver", code=code)
    async with Sessions(replace(config, allow_sdist=True, isolation=level)) as sessions:
        done = (await sessions.get("default").install(["leaver"], timeout=HANG)).installation
        assert done.installed == ("leaver==1.0",), done.stderr
        assert await asyncio.to_thread(until, lambda: not running(mark), HANG)


def running(mark: str) -> list[str]:
    """Return the processes that were told a mark."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        if mark in text.split("\0"):
            found.append(text)
    return found


def changed(files: dict[str, bytes | None], name: str = "bad", **wanted: Any) -> dict[str, bytes]:
    """Return a good wheel of `name`, with files changed, added, or (None) taken away."""
    ((file, data),) = wheel(name, **wanted).items()
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        content: dict[str, bytes | None] = {item: old.read(item) for item in old.namelist()}
        content[f"{name}-{wanted.get('version', '1.0')}.dist-info/RECORD"] = b""
        for path, text in {**content, **files}.items():
            if text is not None:
                new.writestr(path, text, zipfile.ZIP_DEFLATED)
    return {file: buffer.getvalue()}


def linked() -> dict[str, bytes]:
    """Return a wheel with a link in it."""
    ((file, data),) = changed({}).items()
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a") as made:
        info = zipfile.ZipInfo("bad/link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        made.writestr(info, "/etc/passwd")
    return {file: buffer.getvalue()}


def doubled() -> dict[str, bytes]:
    """Return a wheel with two files of one name."""
    ((file, data),) = changed({}).items()
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a") as made, pytest.warns(UserWarning):
        made.writestr("bad.py", "value = 666\n")
    return {file: buffer.getvalue()}


def hidden() -> dict[str, bytes]:
    """Return a wheel that is another one for who reads it from its beginning."""
    ((file, data),) = changed({}).items()
    return {file: data + b"PK\x05\x06" + bytes(18)}


META = "Metadata-Version: 2.1\nName: {}\nVersion: {}\n"
BAD: dict[str, tuple[Callable[[], dict[str, bytes]], str]] = {
    "up": (lambda: changed({"../../../up.py": b""}), "leads elsewhere"),
    "absolute": (lambda: changed({"/tmp/absolute.py": b""}), "leads elsewhere"),
    "backslash": (lambda: changed({"..\\up.py": b""}), "leads elsewhere"),
    "link": (linked, "a link"),
    "twice": (doubled, "twice"),
    "two archives": (hidden, "metadata"),
    "other name": (lambda: wheel("other"), "a wheel of other"),
    "other version": (lambda: wheel("bad", "2.0"), "2.0"),
    "forged name": (lambda: changed({f"{INFO}/METADATA": META.format("x", 1).encode()}), "Name"),
    "forged version": (
        lambda: changed({f"{INFO}/METADATA": META.format("bad", 2).encode()}),
        "Version",
    ),
    "two names": (
        lambda: changed({f"{INFO}/METADATA": META.format("bad\nName: numpy", "1.0").encode()}),
        "Name",
    ),
    "address": (lambda: wheel("bad", requires=("x @ file:///etc/passwd",)), "no package by name"),
    "no metadata": (lambda: changed({f"{INFO}/METADATA": None}), "no METADATA"),
    "no record": (lambda: changed({f"{INFO}/RECORD": None}), "no RECORD"),
    "wrong record": (lambda: changed({f"{INFO}/RECORD": b"bad.py,sha256=AAAA,3\n"}), "RECORD"),
    "record of others": (lambda: wheel("bad", record="../../../bin/python,,\n"), "RECORD"),
    "another's metadata": (
        lambda: changed({"numpy-99.dist-info/METADATA": META.format("numpy", 99).encode()}),
        "metadata",
    ),
    "another's metadata, by data": (
        lambda: changed({"bad-1.0.data/purelib/numpy-99.dist-info/METADATA": b""}),
        "numpy-99.dist-info",
    ),
    "python": (lambda: changed({"bad-1.0.data/scripts/python": b"#!/bin/sh\n"}), "bin/python"),
    "pyvenv.cfg": (lambda: changed({"bad-1.0.data/data/pyvenv.cfg": b""}), "pyvenv.cfg"),
    "lib64": (lambda: changed({"bad-1.0.data/data/lib64/x/y.py": b""}), "lib64"),
    "pip": (lambda: changed({"bad-1.0.data/data/lib/kernelry/pip/x.py": b""}), "lib/kernelry"),
    "frame's pth": (lambda: changed({"_kernelry_parent.pth": b"import os\n"}), "_kernelry_parent"),
    "scheme": (lambda: changed({"bad-1.0.data/elsewhere/x": b""}), "belongs nowhere"),
    "script": (
        lambda: changed({f"{INFO}/entry_points.txt": b"[console_scripts]\npython = bad:x\n"}),
        "a script 'python'",
    ),
    "script elsewhere": (
        lambda: changed({f"{INFO}/entry_points.txt": b"[gui_scripts]\n../../up = bad:x\n"}),
        "a script",
    ),
    "bomb": (lambda: changed({"bomb": bytes(BOMB)}), "too much"),
    "many files": (lambda: changed({f"f{n}": b"" for n in range(50_001)}), "too many files"),
    "no archive": (lambda: {"bad-1.0-py3-none-any.whl": b"no archive, for sure"}, "no archive"),
    "no name": (lambda: {"bad.whl": next(iter(wheel("bad").values()))}, "the name of its wheel"),
    "two wheels": (lambda: wheel("bad") | wheel("other"), "2 wheels"),
    "none": (dict, "no wheel"),
}
#: what a build may put in the place of its wheel that is no file
PLACED = {
    "link to a file": "os.symlink('/etc/passwd', out / 'bad-1.0-py3-none-any.whl')",
    "FIFO": "os.mkfifo(out / 'bad-1.0-py3-none-any.whl')",
    "folder": "os.mkdir(out / 'bad-1.0-py3-none-any.whl')",
    "link to a folder": "os.rmdir(out)\nos.symlink('/usr', out)",
    "sparse": "with open(out / 'bad-1.0-py3-none-any.whl', 'wb') as f: f.truncate(1 << 40)",
}


async def test_a_wheel_that_is_not_what_it_has_to_be_changes_nothing(
    config: Config, index: Index
) -> None:
    cases: dict[str, tuple[dict[str, bytes], str, str]] = {
        **{name: (make(), "", said) for name, (make, said) in BAD.items()},
        **{name: ({}, code, "its wheel") for name, code in PLACED.items()},
    }
    async with Sessions(replace(config, allow_sdist=True)) as sessions:
        session = sessions.get("default")
        await session.install(["tiny"], timeout=HANG)
        before = tree(session.environment.prefix)
        for name, (left, code, said) in cases.items():
            index.files = wheel("tiny") | buildable("bad", left, code=code)
            done = (await session.install(["bad"], timeout=HANG)).installation
            assert done.returncode != 0 and said in done.stderr, (name, done.stderr)
            assert tree(session.environment.prefix) == before, name
        slots = list((sessions.state_dir / "installs").iterdir())
        found = {name for slot in slots if slot.name[-1].isdecimal() for name in os.listdir(slot)}
        assert found <= {"view", "view.stamp"}
        index.files = wheel("tiny") | buildable("bad")
        done = (await session.install(["bad"], timeout=HANG)).installation
        assert done.installed == ("bad==1.0",)  # nothing of all that was kept


async def test_a_package_that_a_build_needs_does_not_run_beside_uv(
    config: Config, index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A .pth file runs in every Python of an environment, also in one that uv asks."""
    tell("address", index, tmp_path, monkeypatch)
    hook = (
        "import os, sys; os.environ.get('UV_DEFAULT_INDEX') and "
        "open(os.path.join(sys.prefix, '..', '..', '..', '..', 'caught'), 'w')\n"
    )
    index.files |= wheel("hooked", files={"hooked.pth": hook, "hooked.py": ""})
    index.files |= buildable("sourced", wheel("sourced", files={"sourced.pth": hook}))
    more = "def get_requires_for_build_wheel(settings=None): return ['tiny', 'sourced']\n"
    code = "import hooked, tiny"
    index.files |= buildable("final", code=code, needs=("hooked", "sourced"), more=more)
    async with Sessions(replace(config, allow_sdist=True)) as sessions:
        done = (await sessions.get("default").install(["final"], timeout=HANG)).installation
        assert done.installed == ("final==1.0",), done.stderr
        assert not list(sessions.state_dir.rglob("caught"))


@pytest.mark.parametrize("level", LEVELS)
async def test_no_code_of_a_source_runs_while_uv_looks_at_it(
    config: Config, index: Index, tmp_path: Path, level: Level
) -> None:
    await asyncio.to_thread(need, level)
    canaries = tmp_path / "canaries"
    canaries.mkdir()
    more = (
        "name = 'uv' if any(name.startswith('UV_') for name in os.environ) else 'build'\n"
        f"pathlib.Path({str(canaries)!r}, name).touch()\n"
    )
    index.files |= buildable("tool", more=more)
    index.files |= buildable("told", more=more, static="Requires-Dist: tiny\n")
    index.files |= buildable("final", more=more, needs=("tool",))
    allowed = replace(config, allow_sdist=True, isolation=level, allow_write=(canaries,))
    async with Sessions(allowed) as sessions:
        session = sessions.get("default")
        done = (await session.install(["final", "told"], timeout=HANG)).installation
        assert set(done.installed) == {"final==1.0", "told==1.0"}, done.stderr
    assert os.listdir(canaries) == ["build"]
