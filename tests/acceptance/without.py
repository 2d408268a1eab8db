"""``without.py CALL[,CALL...] PROGRAM ...``: run a program on a Linux that lacks system calls.

A machine without Landlock or user namespaces, as far as a program can tell; by the same
filter that confines sessions, so it needs no privilege.
"""

import ctypes
import errno
import os
import sys

from kernelry.inside.walls import seccomp

CREATE_RULESET = 444
USER_NAMESPACE = 0x10000000

if __name__ == "__main__":
    here = seccomp.machine()
    assert here is not None
    calls = {**here.calls, "landlock": CREATE_RULESET}
    seccomp.MACHINES = {os.uname().machine: here._replace(calls=calls)}
    rules = {
        "landlock": [seccomp.Rule("landlock", error=errno.ENOSYS)],
        "namespaces": [
            seccomp.Rule(call, (seccomp.Test(0, "&", USER_NAMESPACE),))
            for call in ("clone", "unshare")
        ],
    }
    ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    for name in sys.argv[1].split(","):
        seccomp.install(rules[name], all_threads=False)
    os.execvp(sys.argv[2], sys.argv[2:])
