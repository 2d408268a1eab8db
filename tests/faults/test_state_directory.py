"""D8: two servers and one state directory."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from kernelry.errors import StateDirHeldError
from kernelry.paths import StateDirectory, claim_state_directory

from .matrix import fault

ROUNDS = 8
CLAIM = """
import sys
from pathlib import Path
from kernelry.errors import StateDirHeldError
from kernelry.paths import claim_state_directory
print("ready", flush=True)
sys.stdin.readline()
try:
    state = claim_state_directory(Path(sys.argv[1]), explicit=True)
except StateDirHeldError as error:
    print("refused", error, flush=True)
else:
    print("won", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDirectory]:
    state = claim_state_directory(tmp_path / "state", explicit=True)
    yield state
    state.release()


def say(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@fault("D8")
def test_of_two_servers_that_start_at_once_exactly_one_gets_the_directory(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for _ in range(ROUNDS):  # from the second on over the lock that a killed winner left
        both = [
            subprocess.Popen(
                [sys.executable, "-c", CLAIM, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
            )
            for _ in range(2)
        ]
        try:
            assert [line(each) for each in both] == ["ready\n"] * 2
            for each in both:
                say(each)
            said = {each.pid: line(each) for each in both}
            (winner,) = [pid for pid, words in said.items() if words == "won\n"]
            (refusal,) = [words for words in said.values() if words != "won\n"]
            assert refusal.startswith("refused")
            assert f"by process {winner} on" in refusal or "by another process." in refusal
            named = rf"process {winner} on {os.uname().nodename} since \d+-\d+-\d+T\S+\. Stop"
            with pytest.raises(StateDirHeldError, match=named):
                claim_state_directory(path, explicit=True)
        finally:
            for each in both:
                each.kill()
                each.communicate()


@fault("D8")
@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"pid": "x"}', '{"pid": 1e400}', "null"])
def test_a_lock_that_says_nothing_is_still_a_lock(state: StateDirectory, text: str) -> None:
    (state.path / "lock").write_text(text)
    with pytest.raises(StateDirHeldError, match="in use by another process"):
        claim_state_directory(state.path, explicit=True)


@fault("D8")
def test_a_holder_is_not_named_after_the_one_before(state: StateDirectory) -> None:
    lock = state.path / "lock"
    before = json.loads(lock.read_text())
    assert before["started"] > 0
    lock.write_text(json.dumps(before | {"started": before["started"] - 1}))
    with pytest.raises(StateDirHeldError, match="in use by another process"):
        claim_state_directory(state.path, explicit=True)


@fault("D8")
def test_a_lock_that_is_removed_while_it_is_taken_is_not_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock
    lock = tmp_path / "state" / "lock"
    removals = iter([1, 2])

    def removing_flock(file: IO[str], operation: int) -> None:
        flock(file, operation)
        if next(removals, None):
            lock.unlink()

    monkeypatch.setattr(fcntl, "flock", removing_flock)
    state = claim_state_directory(lock.parent, explicit=True)
    try:
        with pytest.raises(StateDirHeldError, match=f"process {os.getpid()}"):
            claim_state_directory(lock.parent, explicit=True)
    finally:
        state.release()
