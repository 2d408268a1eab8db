"""Packages of a session, installed by uv from the package index."""

import sys

from kernelry import Sessions, SessionSpec
from kernelry.programs import run_program

HANG = 300  # seconds for what asks the package index


async def test_two_sessions_have_two_versions_and_the_server_none(sessions: Sessions) -> None:
    found = {}
    for name, version in (("a", "1.15.0"), ("b", "1.16.0")):
        session = await sessions.create(SessionSpec(id=name))
        report = await session.install([f"six=={version}"], timeout=HANG)
        assert report.installation.returncode == 0, report.installation.stderr
        assert report.installation.installed == (f"six=={version}",)
        assert not report.stale_modules
        run = await sessions.run(session, "import six; print(six.__version__)")
        await run.wait(HANG)
        found[name] = run.snapshot().outputs[0].text  # type: ignore[union-attr]
    assert found == {"a": "1.15.0\n", "b": "1.16.0\n"}
    server = await run_program([sys.executable, "-c", "import six"], timeout=HANG)
    default = await sessions.run(sessions.get("default"), "import six")
    await default.wait(HANG)
    assert default.snapshot().error is not None or server.returncode == 0


async def test_another_version_of_a_loaded_module_asks_for_a_restart(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    await session.install(["six==1.15.0"], timeout=HANG)
    run = await sessions.run(session, "import six")
    await run.wait(HANG)
    report = await session.install(["six==1.16.0"], timeout=HANG)
    assert report.stale_modules == ("six",)
    await session.restart()
    run = await sessions.run(session, "import six; print(six.__version__)")
    await run.wait(HANG)
    assert run.snapshot().outputs[0].text == "1.16.0\n"  # type: ignore[union-attr]


async def test_an_unknown_package_is_a_return_code_and_changes_nothing(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    report = await session.install(["no-such-package-kernelry-test"], timeout=HANG)
    assert report.installation.returncode != 0
    assert report.installation.stderr
    assert not [item for item in await session.packages() if item.own]


async def test_what_the_interpreter_has_is_not_installed_again(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    report = await session.install(["ipykernel"], timeout=HANG)
    assert report.installation.returncode == 0
    assert report.installation.installed == ()


async def test_subprocesses_of_a_session_use_its_environment(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    await session.install(["six==1.16.0"], timeout=HANG)
    code = (
        "import subprocess, sys\n"
        "program = 'import six, ipykernel; print(six.__version__)'\n"
        "print(subprocess.check_output([sys.executable, '-c', program], text=True))"
    )
    run = await sessions.run(session, code)
    await run.wait(HANG)
    assert "1.16.0" in run.snapshot().outputs[0].text  # type: ignore[union-attr]
