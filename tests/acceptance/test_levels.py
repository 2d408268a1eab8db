"""Isolation levels: what is chosen, what is said of it, and what is refused."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.acceptance.harness import KERNELRY, Place, RawServer
from tests.faults.matrix import fault

WITHOUT = Path(__file__).parent / "without.py"
DEADLINE = 120.0


def run(
    place: Place, *arguments: str, without: str = "", path: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run `kernelry`, on a machine that lacks something."""
    wrapper: Sequence[str] = [sys.executable, str(WITHOUT), without] if without else []
    environment = place.environment() | ({"PATH": path} if path else {})
    environment.pop("KERNELRY_ISOLATION", None)
    return subprocess.run(
        [*wrapper, str(KERNELRY), *arguments],
        env=environment,
        input="",
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


@pytest.fixture
def without_bwrap(tmp_path: Path) -> str:
    """A PATH on which everything is but bubblewrap."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for directory in os.environ["PATH"].split(os.pathsep):
        for program in Path(directory).glob("*") if directory else ():
            if program.name != "bwrap" and not (folder / program.name).exists():
                (folder / program.name).symlink_to(program)
    assert shutil.which("bwrap", path=str(folder)) is None
    return str(folder)


@pytest.fixture
def broken_bwrap(tmp_path: Path) -> str:
    """A PATH on which bubblewrap fails, as a policy makes it fail."""
    folder = tmp_path / "broken"
    folder.mkdir()
    program = folder / "bwrap"
    program.write_text(
        "#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n"
    )
    program.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def line(report: str, name: str) -> str:
    """Return what the doctor says of something, with its cure."""
    lines = report.splitlines()
    at = next(i for i, text in enumerate(lines) if text[5:].split(" ")[0] == name)
    cure = lines[at + 1] if lines[at + 1 : at + 2] and "cure:" in lines[at + 1] else ""
    return f"{lines[at]} {cure}"


@fault("D16")
def test_the_doctor_names_what_is_missing_and_the_cure(
    place: Place, without_bwrap: str, broken_bwrap: str
) -> None:
    flags = place.arguments()[1:]
    report = run(place, "doctor", *flags, without="landlock", path=without_bwrap).stdout
    assert "it needs version 6 (Linux 6.12), here is none" in line(report, "guard")
    assert "cure: it needs Linux 6.12 or newer with Landlock" in line(report, "guard")
    assert "bubblewrap (bwrap) is not installed" in line(report, "box")
    assert "cure: install bubblewrap" in line(report, "box")
    assert "sessions get 'process'" in line(report, "isolation")
    assert "any session can read the others' variables" in line(report, "isolation")
    report = run(place, "doctor", *flags, without="namespaces").stdout
    assert "tried: its walls stand" in line(report, "guard")
    assert "namespace" in line(report, "box")
    assert "sessions get 'guard'" in line(report, "isolation")
    report = run(place, "doctor", *flags, without="landlock", path=broken_bwrap).stdout
    assert "setting up uid map: Permission denied" in line(report, "box")


@fault("D16")
@pytest.mark.parametrize(
    ("level", "without"), [("guard", "landlock"), ("box", "namespaces")], ids=["guard", "box"]
)
def test_a_level_that_was_asked_for_and_can_not_be_proved_is_an_error(
    place: Place, level: str, without: str
) -> None:
    refused = run(place, *place.arguments("--isolation", level), without=without)
    assert refused.returncode != 0
    assert f"isolation '{level}' can't be had here: " in refused.stderr
    assert "Cure: " in refused.stderr
    assert not list(place.state.glob("*.sqlite"))


def test_without_any_wall_auto_says_so_and_each_answer_too(
    place: Place, without_bwrap: str
) -> None:
    with RawServer(
        place,
        command=(sys.executable, str(WITHOUT), "landlock", str(KERNELRY)),
        env={"PATH": without_bwrap, "KERNELRY_ISOLATION": "auto"},
    ) as server:
        answer = server.tool("create_session", session_id="a", limits={"processes": 50})
        created = answer["session"]
        assert answer["limits"]["processes"] == 50
        assert answer["limits"]["memory"] > 0
        assert (created["isolation"], created["network"]) == ("process", True)
        health = server.tool("get_kernel_health", session_id="a")
        assert (health["isolation"], health["network"]) == ("process", True)
    log = place.log.read_text()
    assert "no isolation 'guard'" in log
    assert "sessions are isolated at level 'process', network on, limits: memory " in log


def test_a_session_can_ask_for_more_walls_and_never_for_fewer(place: Place) -> None:
    with RawServer(place, env={"KERNELRY_ISOLATION": "guard"}) as server:
        code = "import os; len([name for name in os.listdir('/proc') if name.isdecimal()])"
        boxed = server.tool("create_session", session_id="boxed", isolation="box", network=False)
        assert (boxed["session"]["isolation"], boxed["session"]["network"]) == ("box", False)
        seen = server.tool("run_python_code", code=code, session_id="boxed")["results"]
        assert int(seen[0]) < 10
        offline = server.tool("create_session", session_id="offline", network=False)
        assert (offline["session"]["isolation"], offline["session"]["network"]) == ("guard", False)
        tried = server.tool(
            "run_python_code", code="import socket; socket.socket()", session_id="offline"
        )
        assert tried["error"]["type"] == "PermissionError"
        assert tried["note"].startswith("The network is off in this session.")
        online = server.tool("run_python_code", code="import socket; socket.socket().close()")
        assert online["status"] == "completed"
        less = server.call("create_session", isolation="process")
        assert "a session can ask for more, not for 'process'" in str(less)


def test_what_a_session_asked_for_outlives_restarts_of_kernel_and_server(place: Place) -> None:
    with RawServer(place, env={"KERNELRY_ISOLATION": "guard"}) as server:
        server.tool("create_session", session_id="a", isolation="box", network=False)
        server.tool("restart_kernel", session_id="a")
        health = server.tool("get_kernel_health", session_id="a")
        assert (health["isolation"], health["network"], health["start"]) == ("box", False, "box")
        server.process.kill()
        server.process.wait()
    with RawServer(place, env={"KERNELRY_ISOLATION": "guard"}) as server:
        health = server.tool("get_kernel_health", session_id="a")
        assert (health["isolation"], health["network"], health["start"]) == ("box", False, "box")
        assert server.tool("run_python_code", code="6*7", session_id="a")["results"] == ["42"]
        server.tool("restart_kernel", session_id="a")
        health = server.tool("get_kernel_health", session_id="a")
        assert (health["isolation"], health["network"]) == ("box", False)


def test_a_refused_access_names_the_path_and_the_option_that_opens_it(
    place: Place, tmp_path: Path
) -> None:
    secret, folder = tmp_path / "secret", tmp_path / "folder"
    secret.write_text("hidden")
    folder.mkdir()
    read = f"open({str(secret)!r}).read()"
    write = f"open({str(folder / 'new')!r}, 'w').write('x')"
    with RawServer(place, env={"KERNELRY_ISOLATION": "guard"}) as server:
        refused = server.tool("run_python_code", code=read)
        assert refused["error"]["type"] == "PermissionError"
        assert str(secret) in refused["note"]
        assert f"--allow-read {secret}" in refused["note"]
    opened = ("--allow-read", str(secret), "--allow-write", str(folder))
    for level in ("guard", "box"):
        with RawServer(place, opened, env={"KERNELRY_ISOLATION": level}) as server:
            assert server.tool("run_python_code", code=read)["results"] == ["'hidden'"]
            assert server.tool("run_python_code", code=write)["status"] == "completed"
            refused = server.tool("run_python_code", code=f"open({str(secret)!r}, 'a')")
            assert refused["status"] == "failed"
    assert (folder / "new").read_text() == "x"
    assert secret.read_text() == "hidden"
