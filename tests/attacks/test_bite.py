"""The attacks bite: with a rule taken away, the attack that it stops gets through.

The rule is taken away in what a kernel is told (the plan) or in a copy of what it runs.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kernelry import ExecutionStatus, Limits, config, walls
from kernelry.engines import guardians, launch, servers
from kernelry.errors import KernelryError
from kernelry.processes import parent_of
from tests.acceptance.harness import until
from tests.attacks.conftest import need
from tests.attacks.scripts.leaving import CLONE
from tests.attacks.test_leaving import mark as mark
from tests.attacks.test_leaving import marked
from tests.attacks.world import VARIABLE, World, world

HANG = 60.0
LIMIT = 300 << 20
BLOCK = 512  # bytes of st_blocks
INSIDE = walls.INSIDE.parent


@dataclass(frozen=True)
class Rule:
    """A rule, how it is taken away, and what gets through then."""

    #: the attack script
    script: str
    #: its steps that get through without the rule
    through: frozenset[str]
    #: file of kernelry/inside and the text in it, and what stands there instead; or nothing
    patch: tuple[str, str, str] | None = None
    #: changes of the plan
    plan: tuple[tuple[str, list[str]], ...] = ()


RULES = {
    "the list of what may be read": Rule(
        "t02_reads",
        frozenset({"opens_the_file", "maps_it", "has_a_program_read_it", "lists_its_folder"}),
        plan=(("read", ["/"]),),
    ),
    "the list of what may be written": Rule(
        "t01_writes",
        frozenset({"overwrites_a_file", "renames_a_file_out", "deletes_a_tree"}),
        plan=(("write", ["/"]),),
    ),
    "the scope of signals": Rule(
        "t04_neighbours",
        frozenset({"kills", "kills_a_thread", "kills_by_a_descriptor", "signals_the_neighbour"}),
        patch=("walls/guard.py", "SCOPED = 3", "SCOPED = 1"),
    ),
    "no Unix sockets of others": Rule(
        "t03_network",
        frozenset({"connects_to_a_service_of_the_user", "sends_to_a_service_of_the_user"}),
        patch=(
            "walls/seccomp.py",
            'return [Rule("socket", (unix, *kinds), error=errno.EACCES), '
            'Rule("connect", error=ASKS)]',
            "return []",
        ),
    ),
    "who listens at a path": Rule(
        "t05_sockets",
        frozenset(
            {
                "connects_to_one_in_the_working_folder",
                "connects_to_one_that_it_has_moved_in",
                "connects_to_one_that_it_has_linked_in",
                "puts_another_in_the_place_of_its_own",
            }
        ),
        patch=("walls/doors.py", "if not sockets <= held_by(members, sockets):", "if 0:"),
    ),
    "no pairs for datagrams": Rule(
        "t03_network",
        frozenset({"sends_from_one_of_a_pair", "sends_from_one_of_a_raw_pair"}),
        patch=("walls/seccomp.py", 'Test(1, "!=", SOCK_SEQPACKET', 'Test(1, "==", 99'),
    ),
    "no sockets of the internet": Rule(
        "t03_network",
        frozenset({"sends_by_udp_unconnected"}),
        patch=(
            "walls/seccomp.py",
            "*((AF_INET, AF_INET6) if network else ())]",
            "AF_INET, AF_INET6]",
        ),
    ),
    "shared memory of its own": Rule(
        "t04_neighbours",
        frozenset({"opens_shared_memory_whose_name_it_knows"}),
        patch=(
            "walls/guard.py",
            'mounts.own_shared_memory(self._plan["shared_size"])',
            "not self",
        ),
    ),
    "terminals": Rule(
        "t02_reads",
        frozenset({"listens_at_a_terminal_of_the_user", "writes_to_a_terminal_of_the_user"}),
        plan=(("device", ["/dev/pts"]),),
    ),
    "no changes of other processes": Rule(
        "t04_neighbours",
        frozenset({"limits_it"}),
        patch=("walls/seccomp.py", "for call, pid in OF_OTHERS.items()", "for call, pid in ()"),
    ),
    "no new namespaces": Rule(
        "t01_writes",
        frozenset({"clones_into_a_new_namespace"}),
        patch=("walls/seccomp.py", 'Rule("clone", (Test(0, "&", NEW_NAMESPACE),)),', ""),
    ),
    "no leases": Rule(
        "t01_writes",
        frozenset({"takes_a_lease_on_a_file_that_it_may_read", "watches_a_folder_by_a_lease"}),
        patch=("walls/seccomp.py", "*range(0, 12), 15,", "1024, 1026, *range(0, 12), 15,"),
    ),
    "no flags of files": Rule(
        "t01_writes",
        frozenset(
            {"sets_flags_of_a_file_that_it_may_read", "sets_more_flags_of_a_file_that_it_may_read"}
        ),
        patch=(
            "walls/seccomp.py",
            "kind, looks in FILE_IOCTLS.items()",
            "kind, looks in ()",
        ),
    ),
    "no attributes of files": Rule(
        "t01_writes",
        frozenset({"sets_attributes_by_a_call"}),
        patch=("walls/seccomp.py", '"ioperm", "file_setattr",', '"ioperm",'),
    ),
    "no watching of folders": Rule(
        "t02_reads",
        frozenset({"watches_its_folder"}),
        patch=("walls/seccomp.py", "if sees_all else ()", "if not sees_all else ()"),
    ),
}


def pid_of(here: World) -> int:
    """Return the attacker's kernel."""
    assert here.attacker.kernel is not None
    return here.attacker.kernel.process.pid


def leaves_the_family(here: World, mark: str) -> bool:
    """Say whether a process that bears the mark descends from the kernel no more."""

    def family(pid: int) -> set[int]:
        return {pid} | family(parent_of(pid)) if pid > 1 else set()

    return any(pid_of(here) not in family(pid) for pid in marked(mark))


def stops(here: World, mark: str) -> bool:
    """Say whether a process that bears the mark is stopped for who waits for it."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2] for pid in marked(mark)]
    return any(stat.split()[0] == "t" for stat in stats)


def holds_memory(here: World, mark: str) -> bool:
    """Say whether the kernel has more in a file without a name than it may have at all."""
    for path in Path(f"/proc/{pid_of(here)}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            is_ours = os.readlink(path).startswith(f"/memfd:{mark}")
            if is_ours and path.stat().st_blocks * BLOCK > LIMIT:
                return True
    return False


@dataclass(frozen=True)
class Seen:
    """A rule whose absence is seen in what there is, not in what the attack says of itself."""

    #: the rule in walls/seccomp.py, which is taken out
    rule: str
    #: what a cell does, with MARK in what it starts
    code: str
    #: says whether it got through
    through: Callable[[World, str], bool]
    #: whether the attack leaves something marked though the rule holds
    leaves: bool = True


SLEEP = "os.execvpe('sleep', ['sleep', '7200.MARK'], {})"
START = "import ctypes, os\nlibc = ctypes.CDLL(None)\n"
SEEN = {
    "no child of its parent's parent": Seen(
        'Rule("clone", (Test(0, "&", CLONE_PARENT),)),',
        f"if libc.syscall({CLONE}, 0x8000 | 17, 0, 0, 0, 0) == 0: {SLEEP}",
        leaves_the_family,
        leaves=False,
    ),
    "orphans stay": Seen(
        'Rule("prctl", (Test(0, "==", PR_SET_CHILD_SUBREAPER), Test(1, "==", 0))),',
        "libc.prctl(36, 0, 0, 0, 0)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    if os.fork(): os._exit(0)\n"
        f"    {SLEEP}\n"
        "os.waitpid(pid, 0)",
        leaves_the_family,
    ),
    "no stops for the parent": Seen(
        'Rule("ptrace", (Test(0, "==", PTRACE_TRACEME),)),',
        f"if os.fork() == 0:\n    libc.ptrace(0, 0, 0, 0)\n    {SLEEP}",
        stops,
    ),
    "no files in memory that nobody counts": Seen(
        ' if memory_files else ("memfd_create",)',
        "fd = os.memfd_create('MARK')\nfor _ in range(400): os.write(fd, bytes(1 << 20))",
        holds_memory,
        leaves=False,
    ),
}


def weaken(rule: Rule, folder: Path, monkeypatch: pytest.MonkeyPatch, *, looking: bool) -> None:
    """Take a rule away from all kernels that start from now on.

    Args:
        rule: Which.
        folder: Where a copy of what kernels run is made.
        monkeypatch: Puts all back.
        looking: Whether kernels look whether their walls stand.
    """
    copy = folder / "inside"
    shutil.copytree(INSIDE, copy)
    patches = [rule.patch] if rule.patch else []
    if not looking:
        patches += [
            ("starting/launcher.py", "        walls.check()\n", ""),
            ("starting/launcher.py", 'guard.Walls(launch["walls"]).check()', "pass"),
            ("starting/entering.py", "    walls.check()\n", ""),
            ("walls/confined.py", "        walls.check()\n", ""),
        ]
    for name, text, instead in patches:
        before = (copy / name).read_text(encoding="utf-8")
        assert before.count(text) == 1, f"{name} has no line {text!r} any more"
        (copy / name).write_text(before.replace(text, instead), encoding="utf-8")
    for module in (walls, launch, guardians):
        monkeypatch.setattr(module, "INSIDE", copy / "__main__.py")
    made = walls.Walls.plan

    def plan(self: walls.Walls, **lists: Any) -> dict[str, Any]:
        planned = made(self, **lists)
        for name, paths in rule.plan:
            planned[name] = [*planned[name], *paths]
        return planned

    monkeypatch.setattr(walls.Walls, "plan", plan)


@pytest.mark.parametrize("name", RULES)
def test_an_attack_gets_through_when_its_rule_is_taken_away(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("guard")
    rule = RULES[name]
    weaken(rule, tmp_path, monkeypatch, looking=False)
    with world("guard", kernel_start="spawn") as here:
        result = here.attack(rule.script)
    assert rule.through <= result.through, result.why({*rule.through} - result.through)


@pytest.mark.parametrize("name", ["the list of what may be read", "no Unix sockets of others"])
def test_a_kernel_does_not_start_within_walls_that_do_not_stand(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a mistake is found by the first start, not by an attacker."""
    need("guard")
    weaken(RULES[name], tmp_path, monkeypatch, looking=True)
    with pytest.raises(KernelryError, match="does not stand"), world("guard", kernel_start="spawn"):
        pass


def test_a_variable_of_the_server_is_found_when_all_are_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The attack that looks for it in the kernel's own memory is real."""
    monkeypatch.setattr(config, "PASSED_ON", {*config.PASSED_ON, VARIABLE})
    with world("process") as here:
        result = here.attack("t02_reads")
    assert "finds_it_in_its_own_memory" in result.through


@pytest.mark.parametrize("taken", [True, False], ids=["without", "with"])
@pytest.mark.parametrize("name", SEEN)
def test_without_its_rule_an_attack_is_seen_to_get_through_from_outside(
    name: str, taken: bool, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By which a process leaves its family, stops for its guardian, or has memory for nothing."""
    need("guard")
    attack = SEEN[name]
    if taken:
        rule = Rule("", frozenset(), patch=("walls/seccomp.py", attack.rule, ""))
        weaken(rule, tmp_path, monkeypatch, looking=False)
    changes = {"control_groups": False, "limits": Limits(memory=LIMIT)}
    with world("guard", kernel_start="spawn", **changes) as here:
        here.run(START + attack.code.replace("MARK", mark))
        if taken:
            assert until(lambda: attack.through(here, mark), HANG)
            return
        if attack.leaves:
            assert until(lambda: bool(marked(mark)), HANG)
        assert not attack.through(here, mark)


@pytest.mark.parametrize("is_first", [False, True], ids=["without", "with"])
def test_without_a_guardian_what_a_killed_kernel_leaves_lives_on(
    is_first: bool, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only who was there before the kernel gets what is orphaned by its end, and ends it."""
    need("guard")

    async def none(_profile: object) -> tuple[None, guardians.Started]:
        return None, guardians.Started()

    if not is_first:
        monkeypatch.setattr(servers, "start_guardian", none)
    leave = (
        "import os\n"
        "readable, writable = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        f"    {SLEEP.replace('MARK', mark)}\n"
        "os.close(writable)\n"
        "os.read(readable, 1)\n"  # until the other is another program
        "os.kill(os.getpid(), 9)"
    )
    with world("guard", kernel_start="spawn", control_groups=False) as here:
        assert here.run(leave).status is ExecutionStatus.DIED
        if is_first:
            assert until(lambda: not marked(mark), HANG), marked(mark)
        else:
            assert marked(mark)
