"""Run in a kernel: tell all that can be seen of the process, and every path that a module keeps.

Writes one JSON object: what is seen -> value. Paths of the session are put as SESSION, so that
two kernels of two sessions can be compared.
"""

import faulthandler
import functools
import gc
import getpass
import json
import locale
import logging
import os
import pathlib
import platform
import re
import resource
import signal
import site
import sys
import sysconfig
import tempfile
import threading
import warnings
from typing import Any

DEPTH = 4
STATUS = ("Uid", "Gid", "SigCgt", "SigBlk", "CapEff", "NoNewPrivs", "Umask", "Seccomp")
ITEMS = 2000
SESSION = os.path.dirname(os.environ["HOME"])
RUNTIME = re.compile(r"/[^\s'\"]*kernelry[^/\s'\"]*/[0-9a-f]{8}(-[0-9])?")


def plain(text: str) -> str:
    """Return a text without what is different in every session."""
    text = text.replace(SESSION, "SESSION").replace(os.path.basename(SESSION), "SESSION")
    return re.sub(r"0x[0-9a-f]+", "0x", text)


def texts(value: Any, depth: int = DEPTH) -> list[str]:
    """Return the paths in a value, however deep."""
    if isinstance(value, bytes):
        value = value[:10_000].decode("utf-8", "replace")
    if isinstance(value, str):
        return [plain(value)] if "/" in value and len(value) < 10_000 else []
    if isinstance(value, pathlib.PurePath):
        return [plain(str(value))]
    if depth == 0:
        return []
    if isinstance(value, dict):
        inner = [part for pair in list(value.items())[:ITEMS] for part in pair]
    elif isinstance(value, list | tuple | set | frozenset):
        inner = list(value)[:ITEMS]
    elif isinstance(value, functools._lru_cache_wrapper):
        inner = [part for part in gc.get_referents(value) if isinstance(part, dict | str | tuple)]
    elif type(value).__module__.split(".")[0] in sys.modules and hasattr(value, "__dict__"):
        if isinstance(value, type) or callable(value) or type(value).__name__ == "module":
            return []
        inner = list(vars(value).values())[:ITEMS]
    else:
        return []
    return sorted({text for part in inner for text in texts(part, depth - 1)})


def kept() -> dict[str, list[str]]:
    """Return the paths that modules keep, by where."""
    found = {}
    for name, module in sorted(sys.modules.items()):
        if name == "__main__" or not hasattr(module, "__dict__"):
            continue
        for key, value in sorted(vars(module).items()):
            if key in ("__file__", "__cached__", "__path__", "__spec__", "__builtins__"):
                continue
            try:
                if paths := texts(value):
                    found[f"{name}.{key}"] = paths
            except Exception as error:
                found[f"{name}.{key}"] = [type(error).__name__]
    return found


def umask() -> int:
    """Return the mask of new files."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def seen() -> dict[str, Any]:
    """Return what can be seen of the process."""
    import matplotlib

    with open("/proc/self/status") as file:
        status = {line.partition(":")[0]: line.partition(":")[2].strip() for line in file}
    return {
        "tempfile.gettempdir": tempfile.gettempdir(),
        "tempfile.gettempprefix": tempfile.gettempprefix(),
        "site.getusersitepackages": site.getusersitepackages(),
        "site.getuserbase": site.getuserbase(),
        "site.ENABLE_USER_SITE": site.ENABLE_USER_SITE,
        "site.getsitepackages": site.getsitepackages(),
        "sysconfig.get_paths": sysconfig.get_paths(),
        "sysconfig.get_config_var(prefix)": sysconfig.get_config_vars()["prefix"],
        "locale": [locale.getlocale(), locale.setlocale(locale.LC_ALL), locale.getencoding()],
        "platform": [platform.platform(), platform.node(), platform.python_version()],
        "matplotlib": [
            matplotlib.get_cachedir(),
            matplotlib.get_configdir(),
            matplotlib.get_backend(),
        ],
        "home": str(pathlib.Path.home()),
        "expanduser": os.path.expanduser("~"),
        "user": getpass.getuser(),
        "logging": [
            repr(logging.root.handlers),
            logging.root.level,
            sorted(
                (name, repr(logger.handlers), logger.level)
                for name, logger in logging.root.manager.loggerDict.items()
                if isinstance(logger, logging.Logger) and (logger.handlers or logger.level)
            ),
        ],
        "warnings": [repr(entry) for entry in warnings.filters],
        "signals": {n.name: repr(signal.getsignal(n)) for n in signal.Signals},
        "signal mask": sorted(map(str, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
        "wakeup": signal.set_wakeup_fd(-1),
        "umask": umask(),
        "rlimits": {
            name: resource.getrlimit(getattr(resource, name))
            for name in dir(resource)
            if name.startswith("RLIMIT_") and name != "RLIMIT_DATA"  # it breathes with the cell
        },
        "descriptors": sorted(kind(fd) for fd in os.listdir("/proc/self/fd")),
        "cwd": os.getcwd(),
        "argv": sys.argv,
        "orig_argv": sys.orig_argv,
        "executable": [
            sys.executable,
            getattr(sys, "_base_executable", ""),
            sys.prefix,
            sys.exec_prefix,
            sys.base_prefix,
        ],
        "path": sys.path,
        "flags": repr(sys.flags),
        "warnoptions": sys.warnoptions,
        "xoptions": sys._xoptions,
        "meta_path": [repr(finder) for finder in sys.meta_path],
        "path_hooks": len(sys.path_hooks),
        "excepthook": [
            repr(sys.excepthook),
            repr(sys.displayhook),
            repr(sys.unraisablehook),
            repr(threading.excepthook),
        ],
        "streams": [
            repr(sys.stdin),
            repr(sys.stdout),
            repr(sys.__stdout__),
            repr(sys.__stderr__),
            repr(sys.__stdin__),
        ],
        "recursion": sys.getrecursionlimit(),
        "switch": sys.getswitchinterval(),
        "gc": [gc.get_threshold(), gc.isenabled()],
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "native threads": len(os.listdir("/proc/self/task")),
        "main thread": threading.current_thread() is threading.main_thread(),
        "environ": {k: v for k, v in os.environ.items() if k != "_KERNELRY_KERNEL"},
        "nice": os.nice(0),
        "affinity": len(os.sched_getaffinity(0)),
        "session leader": os.getsid(0) == os.getpid(),
        "group leader": os.getpgrp() == os.getpid(),
        "faulthandler": faulthandler.is_enabled(),
        "hash": sys.flags.hash_randomization,
        "comm": status["Name"],
        "status": {name: status[name] for name in STATUS},
        "signals ignored": status["SigIgn"],
        "dumpable": os.stat("/proc/self/status").st_uid == os.getuid(),
        "int max str": sys.get_int_max_str_digits(),
        "dlopenflags": sys.getdlopenflags(),
        "trace": [repr(sys.gettrace()), repr(sys.getprofile())],
    }


def kind(fd: str) -> str:
    """Return what a descriptor is."""
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return "gone"
    return plain(RUNTIME.sub("RUNTIME", re.sub(r"\[\d+\]", "", target)))


result = json.loads(plain(json.dumps(seen(), default=str)))
result["modules"] = sorted(sys.modules)
result |= {f"kept: {where}": value for where, value in kept().items()}
with open("THE RESULT", "w") as file:
    json.dump(result, file)
