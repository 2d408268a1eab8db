"""System calls that Python has no function for."""

import ctypes
import os
import struct

libc = ctypes.CDLL(None, use_errno=True)
OPENAT2 = 437  # the same on all machines
BENEATH = 0x08 | 0x04 | 0x02  # RESOLVE_BENEATH, NO_SYMLINKS, NO_MAGICLINKS


def checked(result: int) -> int:
    """Return what a system call returned.

    Raises:
        OSError: It failed.
    """
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def open_beneath(folder: int, path: bytes, flags: int, mode: int = 0) -> int:
    """Open what lies below a folder, following no link; return the descriptor.

    Args:
        folder: Descriptor of the folder.
        path: Relative to it.
        flags: As for `os.open`.
        mode: Of a file that is made.

    Raises:
        OSError: There is none, or a link is on the way (ELOOP).
    """
    how = ctypes.create_string_buffer(struct.pack("QQQ", flags, mode, BENEATH), 24)
    return checked(libc.syscall(OPENAT2, folder, path, how, ctypes.c_size_t(24)))


def open_strictly(path: str, unfollowed: list[str], flags: int, mode: int = 0) -> int:
    """Open a file or folder; below some folders without following any link on the way.

    Args:
        path: Absolute.
        unfollowed: The folders, below which others can change the way to what we name.
        flags: As for `os.open`.
        mode: Of a file that is made.

    Raises:
        OSError: There is none, or a link is on the way.
    """
    top = next((one for one in unfollowed if path.startswith(one + os.sep)), None)
    if top is None:
        return os.open(path, flags, mode)
    folder = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_beneath(folder, os.fsencode(os.path.relpath(path, top)), flags, mode)
    finally:
        os.close(folder)
