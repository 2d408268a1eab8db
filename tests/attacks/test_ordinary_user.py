"""The same results as an ordinary user: run as root, the attacks are also run as one.

The interpreter, the packages and the repository are often where only root may read, so they are
linked into a folder that all may read. The user is a free uid; it needs no entry anywhere.
"""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import uv

from tests.attacks.test_memory import ATTACKS
from tests.conftest import REPOSITORY

DEADLINE = 300
PROGRAM = LIBRARY = f"python{sys.version_info[0]}.{sys.version_info[1]}"
FIRST_UID = 61_000
COMMAND = "import sys\nfrom kernelry_mcp.command.cli import main\nsys.exit(main())\n"
WALLS = "tests/attacks/test_walls.py"
LEAVES = "tests/attacks/test_leaving.py::test_nothing_that_tried_to_leave_a_session_outlives_it"
COUNTS = "tests/attacks/test_memory.py::test_memory_that_no_process_shows_is_counted_or_refused"
SCRIPTS = "tests/attacks/test_memory.py::test_what_a_script_uses_counts_for_its_session"
PLACES = "tests/attacks/test_places.py::test_an_interpreter_in_the_workspace_works_and_what_it"
#: what runs as the user; it has no control groups
PARTS: dict[str, tuple[str, ...]] = {
    "walls": ("-k", "only_where or seen_from or run_script or live_on", WALLS),
    "doors": ("tests/attacks/test_doors.py",),
    "branches": ("-k", "guard or reaches", "tests/attacks/test_branches.py"),
    "leaving": (
        *(
            f"{LEAVES}[guard-{where}-{end}-False]"
            for where in ("cell", "first cell", "script")
            for end in ("delete_session", "SIGKILL")
        ),
        f"{LEAVES}[box-cell-delete_session-False]",
    ),
    "memory and places": (
        *(f"{COUNTS}[{attack}-guard-no groups]" for attack in ATTACKS),
        *(f"{SCRIPTS}[{many}-guard-no groups]" for many in ("memory", "processes")),
        f"{PLACES}_starts_with_runs_within_the_walls[server-guard]",
    ),
    "floods": ("tests/faults/test_floods.py",),
    "files that hold up": ("tests/faults/test_large_files.py",),
    "files of others": ("tests/unit/command/test_clients.py",),
}


def copy(source: Path, target: Path) -> None:
    """Copy a tree: by hard links where it is on the same disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    linked = subprocess.run(["cp", "-al", source, target], capture_output=True, check=False)
    if linked.returncode != 0:
        remove(target)
        subprocess.run(["cp", "-a", source, target], check=True)


def copy_interpreter(base: Path, target: Path) -> None:
    """Copy an interpreter without its packages, which may be many, and its own tests."""
    left_out = ("site-packages", "dist-packages", "test")
    library = [path for path in base.glob(f"lib*/{LIBRARY}/*") if path.name not in left_out]
    for path in (base / "bin" / PROGRAM, *base.glob("lib*/libpython*"), *library):
        made = target / path.relative_to(base)
        made.parent.mkdir(parents=True, exist_ok=True)
        copy(path.resolve(), made)


def remove(tree: Path) -> None:
    """Remove a tree of very many files."""
    subprocess.run(["rm", "-rf", tree], check=True)


def free_uid() -> int:
    """Return the uid of nobody."""
    taken = {user.pw_uid for user in pwd.getpwall()}
    return next(uid for uid in range(FIRST_UID, FIRST_UID + 1000) if uid not in taken)


@pytest.fixture
def readable() -> Iterator[Path]:
    """All that the tests need, where everybody may read it."""
    folder = Path(tempfile.mkdtemp(prefix="kernelry-user-"))
    folder.chmod(0o755)
    base, venv = Path(sys.base_prefix), Path(sys.prefix)
    [packages] = {Path(path) for path in sys.path if path.endswith("site-packages")} & {
        venv / "lib" / LIBRARY / "site-packages"
    }
    copy_interpreter(base, folder / "base")
    environment = folder / "venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to(folder / "base" / "bin" / PROGRAM)
    (environment / "pyvenv.cfg").write_text(f"home = {folder}/base/bin\n")
    program = environment / "bin" / "kernelry"
    program.write_text(f"#!{program.with_name('python')}\n{COMMAND}")
    program.chmod(0o755)
    copy(Path(uv.find_uv_bin()).resolve(), environment / "bin" / "uv")
    copy(packages, environment / packages.relative_to(venv))
    for name in ("kernels", "server", "tests", "pyproject.toml"):
        copy(REPOSITORY / name, folder / "repository" / name)
    yield folder
    remove(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="all of these tests ran as an ordinary user")
@pytest.mark.parametrize("part", PARTS)
def test_the_attacks_end_for_an_ordinary_user_as_they_do_for_root(
    readable: Path, part: str
) -> None:
    repository = readable / "repository"
    uid = free_uid()
    home = Path(tempfile.mkdtemp(prefix="user-"))
    os.chown(home, uid, uid)
    env = {
        "PATH": os.defpath,
        "HOME": str(home),
        "TMPDIR": str(home),
        "LANG": "C.UTF-8",
        "LD_LIBRARY_PATH": str(readable / "base" / "lib"),
        "PYTHONPATH": f"{repository / 'kernels'}:{repository / 'server'}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    env |= {
        name: os.environ[name] for name in ("CI", "KERNELRYTEST_REQUIRE_ALL") if name in os.environ
    }
    python = readable / "venv" / "bin" / "python"
    try:
        done = subprocess.run(
            [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *PARTS[part]],
            cwd=repository,
            env=env,
            user=uid,
            group=uid,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE,
        )
    finally:
        shutil.rmtree(home)
        shutil.rmtree(f"/tmp/kernelry-{uid}", ignore_errors=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
