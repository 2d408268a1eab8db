"""Files that a cell writes are named, whoever writes them: Python, a library, a program."""

from pathlib import Path

import pytest

from .harness import Agent, Place

SHARES_A_SERVER = True
#: what writes -> the files that it writes
WRITERS = {
    "Python": ("open('a.txt', 'w').write('x')", ["a.txt"]),
    "a program": ("!echo x > b.txt", ["b.txt"]),
    "a subprocess": (
        "import subprocess\nsubprocess.run('echo x > c.txt; echo y > d.txt', shell=True)",
        ["c.txt", "d.txt"],
    ),
    "a program in a new folder": ("!mkdir -p deep/er && echo x > deep/er/e.txt", ["deep/er/e.txt"]),
    "sqlite, still open": (
        "import sqlite3\ndb = sqlite3.connect('f.db')\n"
        "db.execute('create table t (x)'); db.commit()",
        ["f.db"],
    ),
    "C": (
        "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.fopen.restype = ctypes.c_void_p\n"
        "file = ctypes.c_void_p(libc.fopen(b'g.txt', b'w'))\n"
        "libc.fputs(b'x', file); libc.fclose(file)",
        ["g.txt"],
    ),
    "numpy past Python": ("import numpy\nnumpy.arange(9).tofile('h.bin')", ["h.bin"]),
    "a file moved into place": ("!echo x > /tmp/kernelry-i && mv /tmp/kernelry-i i.txt", ["i.txt"]),
    "a process of multiprocessing": (
        "import multiprocessing, subprocess\n"
        "def write(name): subprocess.run(['sh', '-c', f'echo x > {name}'])\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: pool.map(write, ['j.1', 'j.2'])",
        ["j.1", "j.2"],
    ),
    "a name that is no UTF-8": ("!echo x > $(printf 'caf\\351.txt')", ["caf\\xe9.txt"]),
    "what is gone at its end": ("!echo x > k.txt; rm k.txt", []),
    "nothing": ("1 + 1", []),
}


@pytest.mark.parametrize("writer", WRITERS)
async def test_a_file_is_named_whoever_wrote_it(agent: Agent, writer: str) -> None:
    code, files = WRITERS[writer]
    if "/tmp/" in code:
        code = code.replace("/tmp/", "$TMPDIR/")
    await agent.run("1")
    done = await agent.run(code)
    assert done["status"] == "completed", done
    assert done["new_files"] == files
    assert (await agent.run("1"))["new_files"] == []


async def test_a_file_that_is_written_over_is_named_again(agent: Agent, place: Place) -> None:
    (place.workspace / "old.txt").write_text("old")
    done = await agent.run("!echo new >> old.txt")
    assert done["new_files"] == ["old.txt"]


async def test_what_changed_while_others_ran_is_not_said_to_be_ones_own(agent: Agent) -> None:
    await agent.ask("create_session", session_id="other")
    await agent.run("1", "other")
    other = await agent.run("import time; time.sleep(3)", "other", wait=0)
    done = await agent.call(
        "run_python_code", code="open('mine.txt', 'w').write('x')\n!echo > theirs.txt"
    )
    assert done.data["new_files"] == ["mine.txt"]
    assert "by this session or another that ran: theirs.txt" in done.text
    await agent.ask("get_execution", execution_id=other["execution_id"], wait=60)


async def test_more_files_than_are_named_are_said_to_be_more(agent: Agent) -> None:
    done = await agent.call(
        "run_python_code", code="!mkdir many; for n in $(seq 3000); do echo > many/$n; done"
    )
    assert len(done.data["new_files"]) == 1000
    assert "There may be more files" in done.text


async def test_a_link_to_a_folder_elsewhere_names_nothing_of_it(
    agent: Agent, place: Place, tmp_path: Path
) -> None:
    (place.workspace / "link").symlink_to(tmp_path)
    done = await agent.run(f"!echo x > inside.txt\n!touch {tmp_path}/outside.txt || true")
    assert done["new_files"] == ["inside.txt"]


async def test_a_folder_made_in_a_flood_of_files_hides_none_that_is_written_later(
    agent: Agent,
) -> None:
    await agent.run("!mkdir many")
    await agent.run("!for n in $(seq 3000); do echo > many/$n; done; mkdir late")
    done = await agent.run("!sleep 0.1; echo x > late/x.txt")
    assert "late/x.txt" in done["new_files"]
    # All is watched anew meanwhile: lists are whole again.
    number, done = 0, await agent.run("!echo x > again0.txt")
    while done["note"] and number < 100:
        number += 1
        done = await agent.run(f"!echo x > again{number}.txt")
    assert done["new_files"] == [f"again{number}.txt"]
    assert not done["note"], done["note"]
