"""T4: read, change or end other sessions, the server, and other processes of the user."""

import ctypes
import fcntl
import os
import resource
import signal
import socket
from pathlib import Path

from tests.attacks.scripts.common import TARGET, call, libc, step

VICTIMS = TARGET.get("victims", [0] * 9)
NEIGHBOUR = TARGET.get("neighbour", 0)
THEIRS = Path(TARGET.get("neighbour_directory", "/nowhere"))
F_SETSIG = 10


@step
def kills() -> object:
    os.kill(VICTIMS[0], signal.SIGKILL)
    return True


@step
def kills_a_group() -> object:
    os.killpg(VICTIMS[1], signal.SIGKILL)  # it leads one
    return True


@step
def kills_a_thread() -> object:
    return call(234, VICTIMS[2], VICTIMS[2], signal.SIGKILL) == 0


@step
def kills_by_a_descriptor() -> object:
    signal.pidfd_send_signal(os.pidfd_open(VICTIMS[3]), signal.SIGKILL)
    return True


@step
def queues_a_signal() -> object:
    information = ctypes.create_string_buffer(128)
    ctypes.memmove(information, (9).to_bytes(4, "little") + bytes(4) + b"\xff\xff\xff\xff", 12)
    return call(129, VICTIMS[4], signal.SIGKILL, information) == 0


@step
def has_a_pipe_kill() -> object:
    readable, writable = os.pipe()
    fcntl.fcntl(readable, fcntl.F_SETOWN, VICTIMS[5])
    fcntl.fcntl(readable, F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(readable, fcntl.F_SETFL, fcntl.fcntl(readable, fcntl.F_GETFL) | os.O_ASYNC)
    os.write(writable, b"x")
    return None  # whether it is dead the test sees


@step
def signals_the_neighbour() -> object:
    os.kill(NEIGHBOUR, signal.SIGURG)
    return True


@step
def signals_the_server() -> object:
    os.kill(TARGET["server"], signal.SIGURG)
    return True


@step
def signals_the_fork_server() -> object:
    os.kill(TARGET["fork_server"], signal.SIGURG)
    return True


@step
def traces() -> object:
    pid = os.fork()  # what is traced is let go when its tracer ends
    if pid == 0:
        os._exit(0 if libc.syscall(101, 0x4206, VICTIMS[6], 0, 0) == 0 else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@step
def reads_memory_by_a_call() -> object:
    with open(f"/proc/{NEIGHBOUR}/maps") as file:
        start = int(file.readline().split("-")[0], 16)
    buffer = ctypes.create_string_buffer(16)
    local = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 16)
    remote = (ctypes.c_uint64 * 2)(start, 16)
    return call(310, NEIGHBOUR, local, 1, remote, 1, 0)


@step
def reads_memory_where_its_own_is() -> object:
    """Kernels that were forked from one process have their modules at one address."""
    wanted = TARGET.get("address", 0) or id(None)
    buffer = ctypes.create_string_buffer(16)
    local = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 16)
    remote = (ctypes.c_uint64 * 2)(wanted, 16)
    return call(310, NEIGHBOUR, local, 1, remote, 1, 0)


@step
def writes_memory() -> object:
    return os.open(f"/proc/{NEIGHBOUR}/mem", os.O_RDWR)


@step
def reads_variables() -> object:
    return Path(f"/proc/{NEIGHBOUR}/environ").read_bytes()


@step
def sees_what_it_has_open() -> object:
    return os.readlink(f"/proc/{NEIGHBOUR}/fd/0")


@step
def enters_its_folder() -> object:
    return os.listdir(f"/proc/{NEIGHBOUR}/cwd/..")


@step
def steals_a_descriptor() -> object:
    return call(438, os.pidfd_open(NEIGHBOUR), 1, 0)


@step
def limits_it() -> object:
    return resource.prlimit(VICTIMS[6], resource.RLIMIT_NOFILE, (64, 64)) is not None


@step
def slows_it() -> object:
    os.setpriority(os.PRIO_PROCESS, VICTIMS[6], 19)
    return True


@step
def slows_all_of_the_user() -> object:
    """Looks only: it would slow us as well."""
    return call(252, 3, 0) >= 0 and TARGET.get("may_slow") and call(251, 3, 0, 2 << 13 | 4) == 0


@step
def pins_it() -> object:
    os.sched_setaffinity(VICTIMS[6], {0})
    return True


@step
def makes_it_idle_at_the_disk() -> object:
    return call(251, 1, VICTIMS[6], 3 << 13) == 0


@step
def makes_it_batch() -> object:
    os.sched_setscheduler(VICTIMS[6], os.SCHED_BATCH, os.sched_param(0))
    return True


@step
def gives_it_to_the_killer() -> object:
    return Path(f"/proc/{VICTIMS[6]}/oom_score_adj").write_text("1000")


@step
def reads_its_output() -> object:
    return Path(TARGET["neighbour_output"]).read_bytes()


@step
def lists_its_files() -> object:
    return os.listdir(THEIRS)


@step
def plants_in_its_files() -> object:
    return (THEIRS / "attack").write_text("x")


@step
def reads_its_key() -> object:
    return Path(TARGET["neighbour_connection"]).read_text()


@step
def speaks_to_its_kernel() -> object:
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(TARGET["neighbour_socket"])
        return made.recv(1)


@step
def speaks_to_the_fork_server() -> object:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as made:
        made.connect(TARGET["fork_server_socket"])
        return True


@step
def lists_the_runtime_directory() -> object:
    return os.listdir(TARGET["runtime"])


@step
def holds_the_lifeline() -> object:
    return os.open(f"{TARGET['runtime']}/lifeline", os.O_RDWR | os.O_NONBLOCK)


@step
def opens_its_own_lifeline_anew() -> object:
    fds = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    mine, *_ = [fd for fd in fds if os.path.exists(fd) and os.readlink(fd).endswith("/lifeline")]
    return os.open(mine, os.O_WRONLY | os.O_NONBLOCK)


@step
def opens_shared_memory_whose_name_it_knows() -> object:
    return Path(TARGET["shared"]).read_bytes()


@step
def lists_shared_memory() -> object:
    return os.path.basename(TARGET["shared"]) in os.listdir("/dev/shm")


@step
def attaches_system_v_memory() -> object:
    return call(29, TARGET["system_v_key"], 4096, 0o600 | 0o1000)


@step
def makes_a_queue() -> object:
    return call(68, TARGET["system_v_key"], 0o600 | 0o1000) >= 0


@step
def opens_a_message_queue() -> object:
    name = b"kernelry-attack"
    return call(240, name, os.O_RDWR | os.O_CREAT, 0o600, None) > 0 and call(241, name) == 0


@step
def reads_keys_of_the_user() -> object:
    return call(250, 0, -4, 1)


@step
def sees_the_neighbour() -> object:
    return Path(f"/proc/{NEIGHBOUR}/stat").read_bytes()


@step
def counts_what_the_processor_does() -> object:
    attributes = ctypes.create_string_buffer(
        (1).to_bytes(4, "little") + (112).to_bytes(4, "little"), 112
    )
    return call(298, attributes, NEIGHBOUR, -1, -1, 0) > 0
