"""A forked kernel, a warm one and a spawned one are the same process to whoever looks.

What is looked at is in twin_probe.py: what can be asked of the process, and every path that a
loaded module keeps. A difference is a defect unless it is on the list, with its reason.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from kernelry import Config, Session, Sessions, SessionSpec
from tests.conftest import ISOLATION, KERNEL_START

PROBE = Path(__file__).with_name("twin_probe.py")
HANG = 60.0
#: what may differ, and why
ALLOWED = {
    r"native threads": "numpy's threads are there from its import, or from its first use",
    r"signals ignored": "posix_spawn ignores a signal that glibc keeps for itself",
    r"kept: (builtins\.)?kernelry_": "ours, which holds the cell that runs",
    r"kept: linecache\.cache": "what was run before: the preparation ran a cell of its own",
    r"kept: (re\._cache|tokenize\.)": "the order of sets, which differs from start to start",
    r"kept: sys\.std(out|err)": "the name of a stream within the process",
    r"kept: sys\.modules": "all of the others once more",
    r"kept: mpl_toolkits\.__loader__": "made anew when it is asked, as sys.path has changed",
}

pytestmark = pytest.mark.skipif(
    KERNEL_START == "spawn" or ISOLATION == "box", reason="kernels are forked in the other run"
)


async def look(sessions: Sessions, session: Session) -> dict[str, Any]:
    """Return what can be seen in a session's kernel."""
    result = sessions.workspace.root / f"{session.id}.json"
    code = PROBE.read_text(encoding="utf-8").replace("THE RESULT", str(result))
    running = await sessions.run(session, f"import matplotlib.pyplot, pandas\n{code}")
    assert await running.wait(HANG)
    assert running.snapshot().error is None, running.snapshot().error
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what differs and may not; what is kept counts if both have loaded the module."""
    loaded = {*one.pop("modules")} & {*other["modules"]}
    return {
        key: (one.get(key), other.get(key))
        for key in sorted((one.keys() | other.keys()) - {"modules"})
        if one.get(key) != other.get(key)
        and not any(re.match(pattern, key) for pattern in ALLOWED)
        and (not key.startswith("kept: ") or key[6:].rpartition(".")[0] in loaded)
    }


@pytest.mark.parametrize("level", ["process", "guard"])
async def test_a_forked_a_warm_and_a_spawned_kernel_agree_on_all_that_can_be_seen(
    config: Config, level: Literal["process", "guard"]
) -> None:
    told = replace(config, preloads=None, isolation=level, warm=1)
    async with Sessions(told) as sessions:
        await sessions.wait_until_warm()
        seen = {}
        for name in ("warm", "forked", "spawned"):
            spec = SessionSpec(id=name)
            session = await sessions.create(spec, fresh=name == "spawned")
            seen[name] = await look(sessions, session)
            assert session.kernel is not None
            assert session.kernel.process.start == ("spawn" if name == "spawned" else "fork")
    for name in ("warm", "forked"):
        different = differences(seen[name], seen["spawned"])
        assert not different, different
    assert seen["warm"]["tempfile.gettempdir"] == "SESSION/tmp"


USES = {
    "a temporary file": "import tempfile; tempfile.NamedTemporaryFile().close()",
    "a temporary folder": "import tempfile; tempfile.TemporaryDirectory().cleanup()",
    "a figure's fonts": "import matplotlib; open(matplotlib.get_cachedir() + '/x', 'w').close()",
    "a file in the home": "import pathlib; (pathlib.Path.home() / 'x').write_text('x')",
    "a library's store": (
        "import os, site; os.makedirs(site.getusersitepackages(), exist_ok=True)"
    ),
    "a spreadsheet": "import pandas; pandas.DataFrame({'a': [1]}).to_csv('table.csv')",
    "a pool": (
        "import multiprocessing\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: pool.map(abs, range(9))"
    ),
}


@pytest.mark.parametrize("name", ["warm", "forked", "spawned"])
async def test_what_a_library_keeps_for_itself_is_the_session_s_own(
    config: Config, name: str
) -> None:
    async with Sessions(replace(config, preloads=None, warm=1)) as sessions:
        await sessions.wait_until_warm()
        if name == "forked":
            await sessions.create(SessionSpec(id="takes the warm one"[:4]))
        session = await sessions.create(SessionSpec(id=name), fresh=name == "spawned")
        for what, code in USES.items():
            running = await sessions.run(session, code)
            assert await running.wait(HANG)
            assert running.snapshot().error is None, (what, running.snapshot().error)


async def test_no_two_kernels_share_what_is_to_be_secret_or_random(config: Config) -> None:
    code = (
        "import multiprocessing, random, uuid, numpy\n"
        "print(multiprocessing.current_process().authkey.hex(), random.random(),"
        " numpy.random.random(), uuid.uuid4())"
    )
    async with Sessions(replace(config, preloads=None, warm=0)) as sessions:
        await sessions.wait_until_warm()
        said = []
        for name in ("a", "b"):
            session = await sessions.create(SessionSpec(id=name))
            running = await sessions.run(session, code)
            assert await running.wait(HANG)
            said.append(str(running.snapshot().outputs).split())
    assert len(said[0]) == len(said[1])
    same = [one for one, other in zip(*said, strict=True) if one == other]
    assert all("Stream" in word or "name" in word for word in same), same
