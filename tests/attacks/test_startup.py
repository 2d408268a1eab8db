"""T9: what a cell leaves behind for the next start of a kernel, a session, a script, a server."""

import json
import os
import venv
from dataclasses import replace
from pathlib import Path

import pytest

from kernelry.inside.processes import OWN_FILE
from kernelry.inside.starting import launcher
from tests.attacks.conftest import need
from tests.attacks.world import Level, World, world

#: what is left in each place; it tells where it ran, and whether a service of the user was reached
POISON = """
import os, socket, sys
try:
    made = socket.socket(socket.AF_UNIX)
    made.connect({service!r})
    got = "reached"
except Exception as error:
    got = repr(error)
try:
    open({secret!r}).read()
    got += " and read"
except Exception as error:
    got += repr(error)
with open(os.path.join({proofs!r}, {name!r} + "-" + str(os.getpid())), "w") as file:
    file.write(got)
"""
STARTUP_NAMES = (
    "sitecustomize.py", "usercustomize.py", "json.py", "zmq.py", "ipykernel.py", "IPython.py",
    "ipython_config.py", "ipython_kernel_config.py", "jupyter_config.py", "matplotlib_inline.py",
)  # fmt: skip
PLANT = """
import os, sys
home, ipython, version = os.environ["HOME"], os.environ["IPYTHONDIR"], sys.version_info
user = f"{{home}}/.local/lib/python{{version[0]}}.{{version[1]}}/site-packages"
names, poison = {names!r}, {poison!r}
own = [user, f"{{ipython}}/profile_default", f"{{ipython}}/profile_default/startup",
       f"{{home}}/.jupyter", f"{{home}}/.ipython/profile_default", home]
for folder in [*own, *{shared!r}]:
    os.makedirs(folder, exist_ok=True)
    for name in names:
        kind = "own" if folder in own else "shared"
        with open(f"{{folder}}/{{name}}", "w") as file:
            file.write(poison.replace("WHICH", f"{{kind}}-{{os.path.basename(folder)}}-{{name}}"))
with open(f"{{user}}/attack.pth", "w") as file:
    file.write("import usercustomize\\n")
for folder in {shared!r}:
    with open(f"{{folder}}/matplotlibrc", "w") as file:
        file.write("backend: module://sitecustomize\\n")
"""


def plant(here: World, proofs: Path) -> None:
    """Leave poison wherever a cell may write."""
    poison = POISON.format(
        service=here.listeners.addresses["unix_stream"],
        secret=str(here._secret),
        proofs=str(proofs),
        name="WHICH",
    )
    shared = [str(here.workspace), str(here.workspace / "scripts")]
    code = PLANT.format(names=STARTUP_NAMES, poison=poison, shared=shared)
    done = here.run(code)
    assert done.error is None, done.error


@pytest.mark.parametrize("level", ["guard", "box"])
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_poisoned_start_up_files_reach_nothing_outside_of_the_walls(
    level: Level, start: str, tmp_path: Path
) -> None:
    need(level)
    with world(level, kernel_start=start, python=with_user_packages(tmp_path)) as here:
        proofs = here.workspace / "proofs"
        proofs.mkdir()
        plant(here, proofs)
        here.listeners.reached()
        here.restart(here.attacker)
        assert here.value("1 + 1") == 2
        said = {path.name: path.read_text() for path in proofs.iterdir()}
        assert not [text for text in said.values() if "reached" in text or "read" in text.split()]
        assert not here.listeners.reached()
        # A session of somebody else starts without any of it.
        for path in proofs.iterdir():
            path.unlink()
        second = here.create("second")
        assert here.value("1 + 1", second) == 2
        assert [path.name for path in proofs.iterdir()] == []


def with_user_packages(folder: Path) -> Path:
    """Return an interpreter that has user packages, as one without an environment of its own."""
    import site

    venv.create(folder / "venv", system_site_packages=True, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    [packages] = (folder / "venv").glob("lib/python*/site-packages")
    ours = [path for path in site.getsitepackages() if Path(path).is_dir()]
    lines = [f"import site; site.addsitedir({path!r})" for path in ours]
    (packages / "ours.pth").write_text("\n".join(lines))
    return python


@pytest.mark.parametrize("level", ["guard", "box"])
def test_a_poisoned_package_of_the_session_runs_within_all_walls(level: Level) -> None:
    """It is imported instead of ours by the session's next fresh kernel: before any cell."""
    need(level)
    with world(level) as here:
        proofs = here.workspace / "proofs"
        proofs.mkdir()
        prefix = here.attacker.environment._prefix
        site = next(
            iter(prefix.glob("lib/python*/site-packages")), prefix / "lib/python3/site-packages"
        )
        poison = POISON.format(
            service=here.listeners.addresses["unix_stream"],
            secret=str(here._secret),
            proofs=str(proofs),
            name="package",
        )
        code = (
            f"import os\nos.makedirs({str(site)!r}, exist_ok=True)\n"
            f"open({str(prefix / 'pyvenv.cfg')!r}, 'w').close()\n"
            f"open({str(site / 'matplotlib_inline.py')!r}, 'w').write({poison!r})\n"
            f"open({str(site / 'zmq.py')!r}, 'w').write({poison!r} + '\\nraise SystemExit(1)')"
        )
        if here.run(code).error is not None:
            pytest.skip("sessions can't write where their environment would be")
        here.attacker.record = replace(here.attacker.record, fresh=True)
        here.listeners.reached()
        try:
            here.restart(here.attacker)
        except Exception as error:
            assert "ended" in str(error)
        said = [path.read_text() for path in proofs.iterdir()]
        assert said
        assert not [text for text in said if "reached" in text or "and read" in text]
        assert not here.listeners.reached()


@pytest.mark.parametrize("kind", ["link", "fifo", "link above"])
def test_what_is_opened_before_the_walls_stand_is_neither_followed_nor_waited_for(
    tmp_path: Path, kind: str
) -> None:
    """The server clears these names; a script of the session may put something there again."""
    target, path = tmp_path / "target", tmp_path / "kernel.log"
    target.write_text("kept")
    if kind == "link":
        path.symlink_to(target)
    elif kind == "link above":  # where others can change the way
        (tmp_path / "folder").symlink_to(tmp_path)
        path = tmp_path / "folder" / "target"
    else:
        os.mkfifo(path)
    assert OWN_FILE
    launch = {"log_file": str(path), "walls": {"unfollowed": [str(tmp_path)]}}
    with pytest.raises(OSError):
        launcher.open_own(launch, "log_file", os.O_WRONLY | os.O_TRUNC)
    assert target.read_text() == "kept"


def test_a_forged_journal_fools_nobody_beyond_its_session() -> None:
    need("guard")
    with world("guard") as here:
        [journal] = here.attacker.directory.glob("journal*")
        lines = [
            {"seq": 1, "channel": "begin", "msg_id": "../../neighbour"},
            {"seq": 10**30, "channel": "iopub", "msg_id": None, "message": [[[]]]},
        ]
        forged = "\n".join(map(json.dumps, lines)) + "\n" + "[" * 100_000
        code = (
            f"open({str(journal)!r}, 'w').write({forged!r})\n"
            "kernel = get_ipython().kernel\n"
            "for content in ({}, [], 7, {'data': 1}, {'name': 'x' * 10_000, 'text': None}):\n"
            "    for kind in ('stream', 'display_data', 'status', 'error', 'nonsense'):\n"
            "        for parent in ({}, {'header': {'msg_id': 'x'}}, kernel.get_parent()):\n"
            "            kernel.session.send(kernel.iopub_socket, kind, content, parent=parent)"
        )
        here.run(code)
        os.kill(here.attacker.kernel.process.pid, 9) if here.attacker.kernel else None
        assert here.value("kept", here.neighbour) == 1
        here.restart(here.attacker)
        assert here.value("6 * 7") == 42
