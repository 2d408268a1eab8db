"""T1 to T5 of the threat table: what gets through at which level, by which way.

The table says it all: a step is expected to get through where it is listed, and nowhere else.
At level `process` most do, which proves that the attacks are real.
"""

import contextlib
import os
from pathlib import Path

import psutil
import pytest

from tests.attacks.world import WAYS, World

#: Steps that get through at level `process` only, unless another table has them.
SCRIPTS = ("t01_writes", "t02_reads", "t03_network", "t04_neighbours", "t05_sockets")

#: Known gaps of `guard`, closed at `box`: Landlock has no rule for these (docs/security.md).
GAPS_OF_GUARD = {
    "changes_a_mode", "changes_times", "changes_the_group", "sets_an_attribute",
    "sees_the_neighbour",
}  # fmt: skip

#: Steps that no level lets through.
NOWHERE = {
    "finds_it_in_its_own_variables", "finds_it_in_its_own_memory",
    "connects_one_of_a_pair_again", "connects_a_socket_that_it_has_already",
    "finds_who_answers",
}  # fmt: skip

#: What a box gives of its own: its terminals, its watches, its files with their names.
OWN_IN_A_BOX: set[str] = set()

#: Whether these get through at `process` depends on the system and on whether it is root.
DEPENDS = {
    "mounts_something_over_it", "mounts_in_a_new_namespace", "clones_into_a_new_namespace",
    "clones_anew_into_a_new_namespace", "changes_the_group", "sets_an_attribute",
    "asks_for_a_handle", "sets_up_an_io_uring", "steals_another_process_descriptor",
    "connects_by_multipath_tcp", "connects_by_tcp_to_an_ipv6_name_of_it",
    "connects_by_tcp_with_its_first_packet", "makes_a_raw_socket", "makes_a_packet_socket",
    "makes_a_vsock", "makes_a_crypto_socket", "makes_a_netlink_socket_of_the_audit",
    "types_into_its_own_terminal", "keeps_capabilities", "slows_all_of_the_user",
    "reads_memory_where_its_own_is", "gives_it_to_the_killer", "counts_what_the_processor_does",
    "attaches_system_v_memory", "makes_a_queue", "opens_a_message_queue",
    "reads_keys_of_the_user", "reads_the_memory_of_the_server", "traces",
    "reads_memory_by_a_call", "writes_memory", "reads_variables", "sees_what_it_has_open",
    "enters_its_folder", "steals_a_descriptor", "keeps_what_set_user_id_programs_give",
    "has_a_pipe_kill", "speaks_to_its_kernel", "takes_a_lease_on_a_file_that_it_may_read",
    "watches_a_folder_by_a_lease", "sets_flags_of_a_file_that_it_may_read",
    "sets_more_flags_of_a_file_that_it_may_read", "sets_attributes_by_a_call",
    "connects_by_packets", "changes_the_path_meanwhile", "changes_the_address_meanwhile",
    "changes_the_socket_meanwhile", "takes_a_socket_of_who_keeps_the_door",
    "connects_to_the_neighbours_own", "has_itself_asked",
}  # fmt: skip

VICTIMS_OF_KILLING = {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize("script", SCRIPTS)
def test_attacks_get_through_only_where_the_documentation_says_so(here: World, script: str) -> None:
    result = here.attack(script)
    if here.level == "process":
        expected = result.steps.keys() - NOWHERE
        missing = expected - DEPENDS - result.through
        assert not missing, result.why(missing)
        assert not result.through & NOWHERE
    else:
        allowed = GAPS_OF_GUARD if here.level == "guard" else OWN_IN_A_BOX
        assert result.through <= allowed, result.why(result.through - allowed)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_no_way_of_running_it_gets_an_attack_through(here: World, script: str, way: str) -> None:
    if way == "cell":
        pytest.skip("the test above")
    result = here.attack(script, way)
    if here.level == "process":
        assert result.through, result.steps
        return
    allowed = GAPS_OF_GUARD if here.level == "guard" else OWN_IN_A_BOX
    assert result.through <= allowed, result.why(result.through - allowed)
    assert not result.reached
    assert not result.killed
    assert result.changed <= ({"mode"} if here.level == "guard" else set())


def test_what_attacks_do_is_seen_from_outside(here: World) -> None:
    """Nothing here is the attacker's word: files, listeners and processes are looked at."""
    written = here.attack("t01_writes")
    connected = here.attack("t03_network")
    killed = here.attack("t04_neighbours")
    if here.level == "process":
        assert {"new", "overwritten", "truncated", "deleted", "tree/file"} <= written.changed
        assert {"tcp", "udp", "unix_stream", "unix_datagram", "abstract"} <= connected.reached
        assert killed.killed >= VICTIMS_OF_KILLING
        return
    assert written.changed == ({"mode"} if here.level == "guard" else set())
    assert connected.reached == set()
    assert killed.killed == set()


def test_the_neighbour_and_the_service_live_on_after_all_that(here: World) -> None:
    assert here.value("kept", here.neighbour) == 1
    assert here.value("6 * 7") == 42
    assert here.wait(here.service.health(here.neighbour)).execution_count


def test_a_kernel_inherits_no_descriptor_of_anybody_else(here: World) -> None:
    code = (
        "[__import__('os').readlink(f'/proc/self/fd/{name}') for name in "
        "__import__('os').listdir('/proc/self/fd') if __import__('os').path.exists("
        "f'/proc/self/fd/{name}')]"
    )
    here.restart(here.attacker)
    own = (str(here.attacker.directory), "/dev/null", str(here.workspace))
    foreign = [
        path
        for path in here.value(code)
        if path.startswith("/")
        and not path.startswith(own)
        and not path.endswith("/lifeline")
        and not path.startswith("/proc/")
    ]
    assert foreign == []


def test_a_forked_kernel_shares_no_socket_or_pipe_with_what_it_was_forked_from(here: World) -> None:
    """Nor with the neighbour, which was forked from the same process."""
    assert here.attacker.kernel is not None and here.neighbour.kernel is not None
    others = (os.getpid(), here.service.fork_server_pid, here.neighbour.kernel.process.pid)
    mine = descriptors(here.attacker.kernel.process.pid)
    assert mine
    assert not mine & set[str]().union(*map(descriptors, others))


def descriptors(pid: int) -> set[str]:
    """Return the sockets and pipes of a process; of a box, of what is in it."""
    inside = psutil.Process(pid).children(recursive=True) if is_bwrap(pid) else []
    folder = Path(f"/proc/{inside[-1].pid if inside else pid}/fd")
    found = set()
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that we list them with
            found.add(os.readlink(path))
    return {link for link in found if link.startswith(("socket:", "pipe:"))}


def is_bwrap(pid: int) -> bool:
    """Say whether a process is a box."""
    return bool(psutil.Process(pid).name() == "bwrap")
