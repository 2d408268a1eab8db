"""T1: change files of the user outside of the workspace."""

import ctypes
import fcntl
import os
import shutil
from pathlib import Path

from tests.attacks.scripts.common import TARGET, call, libc, step

OUTSIDE = Path(TARGET.get("outside", "/nowhere"))
AT_FDCWD, AT_SYMLINK_FOLLOW, RENAME_EXCHANGE = -100, 0x400, 2
READABLE = "/etc/hosts"  # may be read at each level, and is nobody's to change
F_SETLEASE, F_NOTIFY = 1024, 1026
GET_FLAGS, SET_FLAGS, GET_XFLAGS, SET_XFLAGS = 0x80086601, 0x40086602, 0x801C581F, 0x401C5820


def mine(name: str) -> str:
    """Make a file of our own."""
    path = Path(TARGET["workspace"]) / f"mine-{os.getpid()}-{name}"
    path.write_text("mine")
    return str(path)


@step
def creates_a_file() -> object:
    (OUTSIDE / "new").write_text("attack")
    return (OUTSIDE / "new").exists()


@step
def overwrites_a_file() -> object:
    return (OUTSIDE / "overwritten").write_text("attack")


@step
def overwrites_by_a_raw_call() -> object:
    fd = call(257, AT_FDCWD, os.fsencode(OUTSIDE / "raw"), os.O_WRONLY, 0)
    return os.write(fd, b"attack")


@step
def truncates_a_file() -> object:
    os.truncate(OUTSIDE / "truncated", 0)
    return True


@step
def writes_through_a_link_in_the_workspace() -> object:
    link = mine("link")
    os.unlink(link)
    os.symlink(OUTSIDE / "linked", link)
    return Path(link).write_text("attack")


@step
def writes_through_a_hard_link() -> object:
    link = mine("hard")
    os.unlink(link)
    os.link(OUTSIDE / "hard", link)
    return Path(link).write_text("attack")


@step
def renames_a_file_out() -> object:
    os.rename(mine("renamed"), OUTSIDE / "renamed")
    return True


@step
def exchanges_two_files() -> object:
    ours, theirs = mine("swap").encode(), os.fsencode(OUTSIDE / "swapped")
    return call(316, AT_FDCWD, ours, AT_FDCWD, theirs, RENAME_EXCHANGE) == 0


@step
def takes_a_file_in() -> object:
    os.rename(OUTSIDE / "taken", f"{TARGET['workspace']}/taken-{os.getpid()}")
    return True


@step
def links_an_unnamed_file_out() -> object:
    fd = os.open(TARGET["workspace"], os.O_TMPFILE | os.O_RDWR)
    unnamed, wanted = f"/proc/self/fd/{fd}".encode(), os.fsencode(OUTSIDE / "unnamed")
    return call(265, AT_FDCWD, unnamed, AT_FDCWD, wanted, AT_SYMLINK_FOLLOW) == 0


@step
def makes_a_folder() -> object:
    (OUTSIDE / "folder").mkdir()
    return True


@step
def makes_a_fifo() -> object:
    os.mkfifo(OUTSIDE / "fifo")
    return True


@step
def deletes_a_file() -> object:
    os.unlink(OUTSIDE / "deleted")
    return True


@step
def deletes_a_tree() -> object:
    shutil.rmtree(OUTSIDE / "tree")
    return True


@step
def mounts_something_over_it() -> object:
    return call(165, b"none", os.fsencode(OUTSIDE / "tree2"), b"tmpfs", 0, None) == 0


@step
def mounts_in_a_new_namespace() -> object:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if libc.unshare(0x10000000 | 0x00020000) == 0 else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@step
def clones_into_a_new_namespace() -> object:
    pid = call(56, 0x10000000 | 17, None, None, None, None)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return True


@step
def clones_anew_into_a_new_namespace() -> object:
    arguments = (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17)
    pid = call(435, arguments, 88)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return True


@step
def changes_a_mode() -> object:
    os.chmod(OUTSIDE / "mode", 0o777)
    return True


@step
def changes_times() -> object:
    os.utime(OUTSIDE / "mode", (1, 1))
    return True


@step
def changes_the_group() -> object:
    os.chown(OUTSIDE / "mode", -1, os.getgid())
    return True


@step
def sets_an_attribute() -> object:
    os.setxattr(OUTSIDE / "mode", "user.attack", b"1")
    return True


@step
def takes_a_lease_on_a_file_that_it_may_read() -> object:
    """Who opens the file waits then, up to 45 seconds."""
    with open(READABLE, "rb") as file:
        fcntl.fcntl(file, F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(file, F_SETLEASE, fcntl.F_UNLCK)
    return True


@step
def watches_a_folder_by_a_lease() -> object:
    fd = os.open("/usr", os.O_RDONLY)
    return fcntl.fcntl(fd, F_NOTIFY, 2) == 0


@step
def sets_flags_of_a_file_that_it_may_read() -> object:
    """The same flags as it has: it would be changed as well."""
    with open(READABLE, "rb") as file:
        flags = ctypes.create_string_buffer(8)
        fcntl.ioctl(file, GET_FLAGS, flags)
        return fcntl.ioctl(file, SET_FLAGS, flags) is not None


@step
def sets_more_flags_of_a_file_that_it_may_read() -> object:
    with open(READABLE, "rb") as file:
        flags = ctypes.create_string_buffer(28)
        fcntl.ioctl(file, GET_XFLAGS, flags)
        return fcntl.ioctl(file, SET_XFLAGS, flags) is not None


@step
def sets_attributes_by_a_call() -> object:
    return call(469, AT_FDCWD, READABLE.encode(), ctypes.create_string_buffer(24), 24, 0) == 0
