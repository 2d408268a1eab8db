"""What must hold at every level, without a control group: stops, floods, files, odd ends.

The attacks are those of tests/faults, which tries more of them at the default level.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kernelry import Execution, ExecutionStatus
from kernelry.errors import CheckpointError
from kernelry.scripts import run_script
from tests.acceptance.harness import until
from tests.attacks.conftest import need
from tests.attacks.world import World, world
from tests.faults.test_floods import ENDLESS, FLOODS, FORGED, GROWTH
from tests.faults.test_large_files import MANY, SPARSE

HANG = 60.0
#: stops for its parent, which could take that for its end
STOP = (
    "import ctypes, os, signal\n"
    "print(ctypes.CDLL(None).ptrace(0, 0, 0, 0), flush=True)\n"
    "os.kill(os.getpid(), signal.SIGURG)\n"
)
FORGERIES = ("displays of one id, and updates", "text")


@pytest.fixture(scope="module", params=["process", "guard", "box"])
def here(request: pytest.FixtureRequest) -> Iterator[World]:
    """A world of each level."""
    need(request.param)
    with world(request.param, control_groups=False) as made:
        yield made


@contextmanager
def small(here: World) -> Iterator[None]:
    """See that the server, which is this process, does not grow, and that the neighbour lives."""
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")

    def bytes_of(name: str) -> int:
        [line] = [line for line in status.read_text().splitlines() if line.startswith(name)]
        return int(line.split()[1]) << 10

    clear.write_text("5")  # the peak is counted from here
    before = bytes_of("VmRSS")
    yield
    assert bytes_of("VmHWM") - before < GROWTH
    assert here.value("kept", here.neighbour) == 1


def again(here: World) -> None:
    """See that the attacker's session works with its next kernel."""
    here.restart(here.attacker)
    assert here.value("6 * 7") == 42


def last(done: Execution) -> tuple[ExecutionStatus, str]:
    """Return how it ended, and the reason."""
    return done.status, done.error.message if done.error else ""


def test_a_stop_that_a_kernel_stages_is_no_end_of_its_guardian(here: World) -> None:
    """A ptrace stop was taken for an exit, of which there is no code: all sessions died of it."""
    before = here.service.fork_server_pid
    done = here.run(STOP)
    assert done.status == ("died" if here.level == "process" else "completed"), done
    assert here.value("kept", here.neighbour) == 1
    assert here.service.fork_server_pid == before
    again(here)


def test_a_stop_that_a_script_stages_is_no_end_of_anything_else(here: World) -> None:
    (here.workspace / "scripts" / "stop.py").write_text(f"{STOP}print('went on')\n")
    done = here.wait(run_script(here.attacker, "stop.py", (), timeout=10))
    # A process of root's can't be traced by one that has given up root's rights, as guardians have.
    if here.level == "process" and os.getuid():
        assert done.returncode != 0, done
    else:
        assert (done.returncode, done.stdout) == (0, "-1\nwent on\n"), done
    assert here.value("kept", here.neighbour) == 1
    assert here.value("6 * 7") == 42


@pytest.mark.parametrize("flood", FORGERIES)
def test_a_flood_that_code_signs_is_stopped_at_every_level(here: World, flood: str) -> None:
    with small(here):
        done = here.run(f"{FORGED}{FLOODS[flood]}\nthreading.Event().wait()")
    assert done.status is ExecutionStatus.INTERRUPTED, done
    assert "its kernel sent more than" in done.note
    assert here.value("6 * 7") == 42


@pytest.mark.parametrize("what", ["a frame of 8 GiB", "a message without end"])
def test_what_breaks_the_protocol_ends_its_kernel_at_every_level(here: World, what: str) -> None:
    code = (
        f"def attack(end):\n    {ENDLESS[what]}\n"
        "for end in own_ends(2):\n"
        "    try: attack(end)\n"
        "    except OSError: threading.Event().wait()"
    )
    with small(here):
        status, why = last(here.run(FORGED + code))
    assert status is ExecutionStatus.DIED
    assert "the kernel sent" in why
    again(here)


def test_the_name_of_an_exception_is_cut_at_every_level(here: World) -> None:
    done = here.run("raise type('E' * 1_500_000, (Exception,), {})('v')")
    assert done.status is ExecutionStatus.FAILED
    assert done.error is not None
    assert len(done.error.type) <= 200
    assert len(done.error.traceback) <= 201_000


def test_many_files_beside_its_sockets_hold_nobody_up_at_any_level(here: World) -> None:
    assert here.attacker.kernel is not None
    runtime = Path(here.attacker.kernel.record.path).parent
    done = here.run(MANY.format(count=10_000, folder=str(runtime)))
    assert done.error is None, done.error
    assert len(os.listdir(runtime)) > 10_000
    again(here)
    assert not runtime.exists()
    assert until(lambda: not list(runtime.parent.glob(".gone-*")), HANG)


def test_a_checkpoint_that_is_larger_than_any_namespace_is_kept_at_no_level(here: World) -> None:
    assert here.run(SPARSE.format(size=8 << 40)).error is None
    with pytest.raises(CheckpointError, match="more than any namespace"):
        here.wait(here.service.checkpoints.create(here.attacker, patience=HANG))
    again(here)


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("os._exit(255)", "exit code 255"),
        ("os._exit(200)", "exit code 200"),
        ("os.kill(os.getpid(), 9)", "killed by SIGKILL"),
    ],
)
def test_how_a_kernel_ended_is_told_as_it_was(here: World, end: str, told: str) -> None:
    status, why = last(here.run(f"import os\n{end}"))
    assert status is ExecutionStatus.DIED
    assert told in why
    again(here)
