"""T2: read secrets: files, variables, memory, terminals."""

import mmap
import os
import re
import subprocess
from pathlib import Path

from tests.attacks.scripts.common import TARGET, call, libc, step

SECRET = TARGET.get("secret_file", "")
CANARY = TARGET.get("canary", "")[::-1]  # so that our own text does not hold it
HOLDER = TARGET.get("holder", 0)
SERVER = TARGET.get("server", 0)
AT_FDCWD = -100


def has(data: object) -> bool:
    """Say whether the canary is in it."""
    return CANARY in str(data)


@step
def opens_the_file() -> object:
    return has(Path(SECRET).read_text())


@step
def opens_it_by_a_raw_call() -> object:
    return has(os.read(call(257, AT_FDCWD, SECRET.encode(), os.O_RDONLY, 0), 100))


@step
def opens_it_by_a_newer_call() -> object:
    how = (os.O_RDONLY).to_bytes(8, "little") + bytes(16)
    return has(os.read(call(437, AT_FDCWD, SECRET.encode(), how, 24), 100))


@step
def maps_it() -> object:
    with open(SECRET, "rb") as file:
        return has(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)[:])


@step
def has_a_program_read_it() -> object:
    return has(subprocess.run(["cat", SECRET], capture_output=True, check=False).stdout)


@step
def reads_it_through_a_link() -> object:
    link = f"{TARGET['workspace']}/link-{os.getpid()}"
    os.symlink(SECRET, link)
    return has(Path(link).read_text())


@step
def reads_it_through_a_hard_link() -> object:
    link = f"{TARGET['workspace']}/hard-{os.getpid()}"
    os.link(SECRET, link)
    return has(Path(link).read_text())


@step
def reads_it_through_a_path_only_descriptor() -> object:
    fd = os.open(SECRET, os.O_PATH)
    return has(Path(f"/proc/self/fd/{fd}").read_text())


@step
def reads_it_through_another_process_root() -> object:
    return has(Path(f"/proc/{HOLDER}/root{SECRET}").read_text())


@step
def reads_it_through_another_process_descriptor() -> object:
    return has(Path(f"/proc/{HOLDER}/fd/0").read_text())


@step
def steals_another_process_descriptor() -> object:
    stolen = call(438, os.pidfd_open(HOLDER), 0, 0)
    return has(os.pread(stolen, 100, 0))


@step
def lists_its_folder() -> object:
    return os.listdir(os.path.dirname(SECRET))


@step
def watches_its_folder() -> object:
    fd = call(294, 0)
    return libc.inotify_add_watch(fd, os.path.dirname(SECRET).encode(), 0xFFF) >= 0


@step
def asks_for_a_handle() -> object:
    import ctypes

    handle = ctypes.create_string_buffer(b"\x80\0\0\0", 136)
    return call(303, AT_FDCWD, SECRET.encode(), handle, ctypes.byref(ctypes.c_int()), 0) == 0


@step
def sets_up_an_io_uring() -> object:
    import ctypes

    return call(425, 1, ctypes.create_string_buffer(120)) >= 0


@step
def reads_another_process_variables() -> object:
    return has(Path(f"/proc/{HOLDER}/environ").read_text())


@step
def finds_it_in_its_own_variables() -> object:
    return has(os.environ.values()) or has(Path("/proc/self/environ").read_bytes())


@step
def finds_it_in_its_own_memory() -> object:
    """A forked kernel has the memory of what it was forked from."""
    # Never joined: what we look for would be in our memory by our looking for it.
    backwards, behind = TARGET["canary"].encode(), b"-variable-of-the-server"
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line)
            if not found or "[v" in line:
                continue
            start, end = (int(number, 16) for number in found.groups())
            try:
                memory.seek(start)
                while start < end:
                    data = memory.read(min(end - start, 1 << 24))
                    if not data:
                        break
                    start += len(data)
                    for found_at in re.finditer(behind, data):
                        at = found_at.start()
                        if data[max(at - len(backwards), 0) : at][::-1] == backwards:
                            return True
            except (OSError, OverflowError, ValueError):
                continue
    return False


@step
def reads_the_memory_of_the_server() -> object:
    with open(f"/proc/{SERVER}/maps") as maps:
        line = next(line for line in maps if " r" in line)
    with open(f"/proc/{SERVER}/mem", "rb", 0) as memory:
        memory.seek(int(line.split("-")[0], 16))
        return memory.read(16)


@step
def reads_the_state_of_the_server() -> object:
    return Path(TARGET["database"]).read_bytes()[:10]


@step
def reads_the_variables_that_another_session_saved() -> object:
    return Path(TARGET["checkpoint"]).read_bytes()[:10]


@step
def reads_the_key_that_saved_variables_are_signed_with() -> object:
    return Path(TARGET["signing_key"]).read_bytes()


@step
def changes_the_artifact_of_another_session() -> object:
    with open(TARGET["artifact"], "r+b") as file:
        return file.write(b"stored")


@step
def listens_at_a_terminal_of_the_user() -> object:
    return os.open(TARGET["terminal"], os.O_RDONLY | os.O_NOCTTY) > 0


@step
def writes_to_a_terminal_of_the_user() -> object:
    return os.write(os.open(TARGET["terminal"], os.O_WRONLY | os.O_NOCTTY), b"attack")


@step
def types_into_its_own_terminal() -> object:
    import fcntl
    import pty

    master, slave = pty.openpty()
    try:
        return bool(fcntl.ioctl(slave, 0x5412, b"x"))
    finally:
        os.close(master)
        os.close(slave)


@step
def keeps_what_set_user_id_programs_give() -> object:
    return "NoNewPrivs:\t0" in Path("/proc/self/status").read_text()


@step
def keeps_capabilities() -> object:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("CapEff:\t")[2].split()[0], 16) != 0
