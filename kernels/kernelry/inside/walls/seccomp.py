"""System calls that a confined process can't make: seccomp filters, without a library.

A filter is a list of rules, each a call and what its arguments must be for it to be refused.
It can only be added to, never taken away, and holds for all that the process starts. The
numbers are Linux's for x86-64 and 64-bit ARM; elsewhere there is no filter.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from typing import NamedTuple

from ..calls import libc

PR_SET_SECCOMP = 22
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_TSYNC, NEW_LISTENER, TSYNC_ESRCH = 1, 8, 16
RET_ALLOW = 0x7FFF0000
RET_USER_NOTIF = 0x7FC00000
RET_ERRNO = 0x00050000
X32_BIT = 0x40000000  # marks calls of the x32 ABI, which have other numbers

# Classic BPF, as in linux/bpf_common.h.
LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
MASK = 0x54  # BPF_ALU | BPF_AND | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K
NUMBER_AT, ARCH_AT, ARGUMENTS_AT = 0, 4, 16  # in struct seccomp_data

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_VSOCK = 1, 2, 10, 16, 40
SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET, TYPE_MASK = 1, 2, 5, 0xF
IPPROTO_TCP, IPPROTO_UDP = 6, 17
CLONE_PARENT = 0x00008000
CLONE_THREAD = 0x00010000
PTRACE_TRACEME = 0
PR_SET_CHILD_SUBREAPER = 36
NEW_NAMESPACE = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
PRIO_PROCESS, IOPRIO_WHO_PROCESS = 0, 1
SCHED_OTHER = 0
ASKS = -1  # for an error: the call waits for an answer from outside


class Machine(NamedTuple):
    """What differs between processors."""

    #: AUDIT_ARCH_*
    arch: int
    #: number of the call `seccomp`
    seccomp: int
    #: name -> number of the calls that rules are about
    calls: dict[str, int]


X86_64 = Machine(
    arch=0xC000003E,
    seccomp=317,
    calls={
        "socket": 41, "connect": 42, "socketpair": 53, "clone": 56, "clone3": 435,
        "unshare": 272,
        "setns": 308, "ioctl": 16, "mount": 165, "umount2": 166, "pivot_root": 155,
        "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
        "fspick": 433, "mount_setattr": 442, "chroot": 161, "swapon": 167, "swapoff": 168,
        "reboot": 169, "kexec_load": 246, "kexec_file_load": 320, "init_module": 175,
        "finit_module": 313, "delete_module": 176, "acct": 163, "quotactl": 179,
        "quotactl_fd": 443, "add_key": 248, "request_key": 249, "keyctl": 250, "bpf": 321,
        "perf_event_open": 298, "userfaultfd": 323, "io_uring_setup": 425,
        "io_uring_enter": 426, "io_uring_register": 427, "open_by_handle_at": 304,
        "name_to_handle_at": 303, "syslog": 103, "settimeofday": 164, "clock_settime": 227,
        "clock_adjtime": 305, "adjtimex": 159, "vhangup": 153, "fanotify_init": 300,
        "shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "semctl": 66, "semop": 65,
        "semtimedop": 220, "msgget": 68, "msgctl": 71, "msgsnd": 69, "msgrcv": 70,
        "mq_open": 240, "mq_unlink": 241, "prlimit64": 302, "setpriority": 141,
        "sched_setscheduler": 144, "sched_setparam": 142, "sched_setattr": 314,
        "sched_setaffinity": 203, "ioprio_set": 251, "migrate_pages": 256,
        "move_pages": 279, "iopl": 172, "ioperm": 173, "inotify_init": 253, "inotify_init1": 294,
        "ptrace": 101, "prctl": 157, "fcntl": 72, "file_setattr": 469, "memfd_create": 319,
        "memfd_secret": 447, "fork": 57, "vfork": 58,
    },
)  # fmt: skip
AARCH64 = Machine(
    arch=0xC00000B7,
    seccomp=277,
    calls={
        "socket": 198, "connect": 203, "socketpair": 199, "clone": 220, "clone3": 435,
        "unshare": 97, "setns": 268, "ioctl": 29, "mount": 40, "umount2": 39, "pivot_root": 41,
        "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
        "fspick": 433, "mount_setattr": 442, "chroot": 51, "swapon": 224, "swapoff": 225,
        "reboot": 142, "kexec_load": 104, "kexec_file_load": 294, "init_module": 105,
        "finit_module": 273, "delete_module": 106, "acct": 89, "quotactl": 60,
        "quotactl_fd": 443, "add_key": 217, "request_key": 218, "keyctl": 219, "bpf": 280,
        "perf_event_open": 241, "userfaultfd": 282, "io_uring_setup": 425,
        "io_uring_enter": 426, "io_uring_register": 427, "open_by_handle_at": 265,
        "name_to_handle_at": 264, "syslog": 116, "settimeofday": 170, "clock_settime": 112,
        "clock_adjtime": 266, "adjtimex": 171, "vhangup": 58, "fanotify_init": 262,
        "shmget": 194, "shmat": 196, "shmctl": 195, "semget": 190, "semctl": 191,
        "semop": 193, "semtimedop": 192, "msgget": 186, "msgctl": 187, "msgsnd": 189,
        "msgrcv": 188, "mq_open": 180, "mq_unlink": 181, "prlimit64": 261,
        "setpriority": 140, "sched_setscheduler": 119, "sched_setparam": 118,
        "sched_setattr": 274, "sched_setaffinity": 122, "ioprio_set": 30,
        "migrate_pages": 238, "move_pages": 239, "inotify_init1": 26, "ptrace": 117, "prctl": 167,
        "fcntl": 25, "file_setattr": 469, "memfd_create": 279, "memfd_secret": 447,
    },
)  # fmt: skip
MACHINES = {"x86_64": X86_64, "aarch64": AARCH64}

#: never needed by code in a notebook: mounts, modules, keys, clocks, other namespaces, memory
#: and queues that all processes of a user share, interfaces that bypass other rules
REFUSED = (
    "unshare", "setns", "mount", "umount2", "pivot_root", "open_tree", "move_mount", "fsopen",
    "fsconfig", "fsmount", "fspick", "mount_setattr", "chroot", "swapon", "swapoff", "reboot",
    "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "acct",
    "quotactl", "quotactl_fd", "add_key", "request_key", "keyctl", "bpf", "perf_event_open",
    "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "open_by_handle_at",
    "name_to_handle_at", "syslog", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex",
    "vhangup", "fanotify_init", "shmget", "shmat", "shmctl", "semget", "semctl", "semop",
    "semtimedop", "msgget", "msgctl", "msgsnd", "msgrcv", "mq_open", "mq_unlink",
    "migrate_pages", "move_pages", "iopl", "ioperm", "file_setattr", "memfd_secret",
)  # fmt: skip
#: what code needs of fcntl: descriptors, status, locks, pipes, seals, signals of its own; no
#: leases and no notes on folders, for which it is enough that a file may be read
FCNTL_ALLOWED = (
    *range(0, 12), 15, 16, 36, 37, 38, 1025, 1027, 1028, *range(1030, 1041),
)  # fmt: skip
#: kinds of ioctl that change what a file is, also one that may only be read -> those of the
#: kind that only look
FILE_IOCTLS = {
    0x6600: (0x80086601, 0x80046601, 0xC020660B),  # flags, verity, encryption; FIEMAP
    0x5800: (0x801C581F,),  # extended flags, freezing
    0x7600: (0x80087601, 0x80047601),  # versions
}
IOCTL_KIND = 0xFF00
#: change another process of the user unless this argument, its pid, is 0 (oneself)
OF_OTHERS = {
    "prlimit64": 0, "setpriority": 1, "sched_setattr": 0, "sched_setaffinity": 0, "ioprio_set": 1,
}  # fmt: skip


class Test(NamedTuple):
    """What an argument must be; all tests of a rule must hold."""

    #: which argument, from 0
    argument: int
    #: "==", "!=" or "&" (any of these bits)
    how: str
    #: compared with its lower 32 bits
    value: int
    #: applied to them before
    mask: int = 0xFFFFFFFF


class Rule(NamedTuple):
    """A call that is refused, or asks outside."""

    #: its name
    call: str
    #: when; no tests: always
    tests: tuple[Test, ...] = ()
    #: what it fails with; ASKS: who has the filter's listener answers
    error: int = errno.EPERM


def machine() -> Machine | None:
    """Return what is known of this processor; None: there is no filter for it."""
    return MACHINES.get(os.uname().machine)


def early_rules(*, network: bool, sees_all: bool, memory_files: bool) -> list[Rule]:
    """Return what is refused from the start.

    Args:
        memory_files: Whether files may be made that are in memory and have no name.
        network: Whether sockets of the internet may be made at all.
        sees_all: Whether files are there that it may not read.
    """
    rules = [Rule(call) for call in REFUSED]
    rules += [Rule(call, (Test(pid, "!=", 0),)) for call, pid in OF_OTHERS.items()]
    rules += [
        # libzmq sets its threads to the ordinary policy, and dies if it can't.
        Rule("sched_setscheduler", (Test(0, "!=", 0), Test(1, "!=", SCHED_OTHER))),
        Rule("setpriority", (Test(0, "!=", PRIO_PROCESS),)),
        Rule("ioprio_set", (Test(0, "!=", IOPRIO_WHO_PROCESS),)),  # all of a user's
        # glibc and Python do without it when it is missing; its flags can't be looked at.
        Rule("clone3", error=errno.ENOSYS),
        Rule("clone", (Test(0, "&", NEW_NAMESPACE),)),
        # By these a process would leave the family of its session: as a child of its parent's
        # parent, or as an orphan of somebody else's; by the third it would stop for its guardian.
        Rule("clone", (Test(0, "&", CLONE_PARENT),)),
        Rule("prctl", (Test(0, "==", PR_SET_CHILD_SUBREAPER), Test(1, "==", 0))),
        Rule("ptrace", (Test(0, "==", PTRACE_TRACEME),)),
        Rule("ioctl", (Test(1, "==", TIOCSTI),)),
        Rule("ioctl", (Test(1, "==", TIOCLINUX),)),
        Rule("fcntl", tuple(Test(1, "!=", command) for command in FCNTL_ALLOWED)),
        *(
            Rule(
                "ioctl",
                (
                    Test(1, "==", kind, mask=IOCTL_KIND),
                    *(Test(1, "!=", command) for command in looks),
                ),
            )
            for kind, looks in FILE_IOCTLS.items()
        ),
        # Datagrams go to anybody's socket, also from one of a pair; SOCK_RAW is the same there.
        Rule("socketpair", (Test(0, "!=", AF_UNIX),)),
        Rule(
            "socketpair",
            (
                Test(1, "!=", SOCK_STREAM, mask=TYPE_MASK),
                Test(1, "!=", SOCK_SEQPACKET, mask=TYPE_MASK),
            ),
        ),
    ]
    # Landlock has no rule for it, so it would tell the names of files in any folder. Programs
    # do without it when it is missing.
    watching = ("inotify_init", "inotify_init1") if sees_all else ()
    # Nobody sees how much is in them, unless a control group counts it.
    unseen = () if memory_files else ("memfd_create",)
    rules += [Rule(call, error=errno.ENOSYS) for call in (*watching, *unseen)]
    families = [AF_UNIX, AF_NETLINK, *((AF_INET, AF_INET6) if network else ())]
    rules.append(Rule("socket", tuple(Test(0, "!=", family) for family in families)))
    # The routing socket, which libzmq and glibc look at interfaces with.
    rules.append(Rule("socket", (Test(0, "==", AF_NETLINK), Test(2, "!=", 0))))
    for family in (AF_INET, AF_INET6) if network else ():
        ours = Test(0, "==", family)
        stream = Test(1, "==", SOCK_STREAM, mask=TYPE_MASK)
        datagram = Test(1, "==", SOCK_DGRAM, mask=TYPE_MASK)
        rules += [
            Rule("socket", (ours, not_(stream), not_(datagram))),
            Rule("socket", (ours, stream, Test(2, "!=", 0), Test(2, "!=", IPPROTO_TCP))),
            Rule("socket", (ours, datagram, Test(2, "!=", 0), Test(2, "!=", IPPROTO_UDP))),
        ]
    return rules


def late_rules(*, has_door: bool) -> list[Rule]:
    """Return what is refused once the kernel's own sockets are there.

    Args:
        has_door: Whether somebody outside answers those that connect (doors.py).
    """
    unix = Test(0, "==", AF_UNIX)
    if not has_door:
        return [Rule("socket", (unix,))]
    kinds = (Test(1, "!=", kind, mask=TYPE_MASK) for kind in (SOCK_STREAM, SOCK_SEQPACKET))
    return [Rule("socket", (unix, *kinds), error=errno.EACCES), Rule("connect", error=ASKS)]


def alone_rules() -> list[Rule]:
    """Return what is refused to a program that shall start no other: all but threads."""
    return [
        *(Rule(call) for call in ("fork", "vfork")),
        Rule("clone3", error=errno.ENOSYS),
        Rule("clone", (Test(0, "==", 0, mask=CLONE_THREAD),)),
    ]


def not_(test: Test) -> Test:
    """Return the opposite of an equality."""
    return Test(test.argument, "!=", test.value, test.mask)


def install(rules: Iterable[Rule], *, all_threads: bool, listens: bool = False) -> int:
    """Refuse these calls from now on; PR_SET_NO_NEW_PRIVS must have been set.

    Args:
        rules: What to refuse.
        all_threads: Also in the threads that are there already.
        listens: Whether some ask.

    Returns:
        The descriptor at which those that ask are answered; -1: none does.

    Raises:
        OSError: It can't be done here.
    """
    found = machine()
    if found is None:
        raise OSError(errno.ENOSYS, f"no system call filter for {os.uname().machine}")
    program = assemble(list(rules), found)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    flags = SECCOMP_FILTER_FLAG_TSYNC if all_threads else 0
    flags |= NEW_LISTENER | (TSYNC_ESRCH if all_threads else 0) if listens else 0
    result = libc.syscall(
        found.seccomp, SECCOMP_SET_MODE_FILTER, flags, ctypes.create_string_buffer(header)
    )
    if result < 0 or (result and not listens):
        code = ctypes.get_errno() or errno.ESRCH  # a thread's id: it could not be joined
        raise OSError(code, f"the system call filter was refused: {os.strerror(code)}")
    return int(result) if listens else -1


def assemble(rules: list[Rule], found: Machine) -> bytes:
    """Return the program of a filter."""
    code = [
        step(LOAD, ARCH_AT),
        step(EQUAL, found.arch, 1, 0),
        step(RETURN, RET_ERRNO | errno.ENOSYS),
        step(LOAD, NUMBER_AT),
    ]
    if found is X86_64:
        code += [step(AT_LEAST, X32_BIT, 0, 1), step(RETURN, RET_ERRNO | errno.ENOSYS)]
    by_call: dict[int, list[Rule]] = {}
    for rule in rules:
        if rule.call in found.calls:
            by_call.setdefault(found.calls[rule.call], []).append(rule)
    for number, same in by_call.items():
        block = [instruction for rule in same for instruction in refusing(rule)]
        block.append(step(RETURN, RET_ALLOW))
        code += [step(EQUAL, number, 0, len(block)), *block]
    code.append(step(RETURN, RET_ALLOW))
    return b"".join(code)


def refusing(rule: Rule) -> list[bytes]:
    """Return the instructions of one rule, which go on after them if it does not hold."""
    code = [step(RETURN, RET_USER_NOTIF if rule.error == ASKS else RET_ERRNO | rule.error)]
    for test in reversed(rule.tests):
        behind = len(code)
        jump = {
            "==": step(EQUAL, test.value, 0, behind),
            "!=": step(EQUAL, test.value, behind, 0),
            "&": step(ANY_BIT, test.value, 0, behind),
        }[test.how]
        load = [step(LOAD, ARGUMENTS_AT + 8 * test.argument)]
        if test.mask != 0xFFFFFFFF:
            load.append(step(MASK, test.mask))
        code = [*load, jump, *code]
    return code


def step(code: int, value: int, when_true: int = 0, when_false: int = 0) -> bytes:
    """Return one instruction (struct sock_filter)."""
    return struct.pack("HBBI", code, when_true, when_false, value)
