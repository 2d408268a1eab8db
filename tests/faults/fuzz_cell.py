"""The cell that fuzzing.py has run: it throws dice, and says and writes what no kernel does."""
# mypy: ignore-errors
# ruff: noqa
# pyright: basic, reportGeneralTypeIssues=false

from IPython import get_ipython

SEED, SECONDS, DIRECTORY = 0, 0.0, ""  # fuzzing.py puts in others

import json
import os
import random
import socket as sockets
import stat
import time

dice = random.Random(SEED)
kernel = get_ipython().kernel
parent, session, iopub = kernel.get_parent("shell"), kernel.session, kernel.iopub_socket
helper, directory = kernel.helper, DIRECTORY
WORDS = [
    "",
    "a",
    "x" * 3000,
    "\x1b[2J",
    "../../../etc/passwd",
    "\ud800",
    "1e999",
    "\x00",
    "stdout",
    "text/plain",
    "application/json",
    "image/png",
    "image/svg+xml",
    "kernelry_saved",
    "idle",
    "<svg/>",
    "aGVsbG8=",
    "pause",
    "stop",
    "shell",
    "iopub",
    "begin",
]
KEYS = [
    "data",
    "metadata",
    "transient",
    "display_id",
    "name",
    "text",
    "ename",
    "evalue",
    "traceback",
    "file",
    "chars",
    "dropped",
    "displays",
    "totals",
    "tails",
    "kind",
    "at",
    "by",
    "action",
    "progress",
    "question",
    "prompt",
    "hidden",
    "values",
    "removed",
    "topic",
    "status",
    "wait",
    "execution_state",
    "execution_count",
    "kernelry",
    "overflow",
    "files",
    "memory",
    "hint",
    "missed",
    "stopped",
    "payload",
    "variables",
    "total",
    "type",
    "repr",
    "shape",
    "size",
    "modules",
    "busy",
    "held",
    "pending",
    "msg_id",
    "done",
    "over",
    "lines",
    "more",
    "python",
    "skipped",
    "reason",
    "error",
    "blocked",
    "restored",
    "failed",
    "warnings",
    "answer",
]
KINDS = [
    "stream",
    "display_data",
    "execute_result",
    "update_display_data",
    "error",
    "clear_output",
    "status",
    "kernelry_overflow",
    "kernelry_note",
    "comm_msg",
    "iopub_welcome",
    "nothing",
]
NOTES = ["requested", "held", "released", "progress", "asked", "answered", "context", "published"]


def value(depth=0):
    roll = dice.random()
    if depth > 5 or roll < 0.35:
        return dice.choice(WORDS)
    if roll < 0.5:
        return dice.choice([0, 1, -1, 2**31, -(2**63), 10**40, 1.5, 1e308, None, True, False])
    if roll < 0.65:
        return [value(depth + 1) for _ in range(dice.choice([0, 1, 3, 50]))]
    if roll < 0.66:
        return nest(dice.choice([50, 99, 101, 3000]))
    return {dice.choice(KEYS + WORDS): value(depth + 1) for _ in range(dice.choice([0, 1, 4, 8]))}


def nest(depth):
    found = 1
    for _ in range(depth):
        found = [found]
    return found


SHAPES = {
    "stream": lambda: {"name": dice.choice(["stdout", "stderr"]), "text": value()},
    "kernelry_note": lambda: {
        "kind": dice.choice(NOTES),
        "at": 1,
        "by": "me",
        "action": "pause",
        "progress": value(),
        "question": value(),
        "prompt": value(),
        "hidden": value(),
        "values": value(),
        "removed": [value()],
        "topic": dice.choice(["t", value()]),
        "data": value(),
    },
    "status": lambda: {"execution_state": dice.choice(["busy", "idle", value()])},
}


def shown():
    return {
        "data": {dice.choice(WORDS): value() for _ in range(3)} | {"text/plain": value()},
        "metadata": value(),
        "transient": {"display_id": dice.choice(["a", "b", value()])},
    }


def pack(part):
    try:
        return json.dumps(part, default=str, ensure_ascii=dice.random() < 0.5).encode(
            "utf-8", "surrogatepass"
        )
    except RecursionError:
        return b"[" * 5000


def content(kind):
    make = SHAPES.get(kind, shown if "display" in kind or "result" in kind else value)
    return make() if dice.random() < 0.8 else value()


def frames_of(kind, part):
    head = session.msg_header(kind)
    parts = [
        pack(head),
        pack(parent["header"] if dice.random() < 0.9 else value()),
        pack(value() if dice.random() < 0.1 else {}),
        part,
    ]
    return [b"<IDS|MSG>", session.sign(parts), *parts]


def broken(frames):
    frames = [bytearray(one) for one in frames]
    for _ in range(dice.choice([1, 1, 3])):
        one = dice.choice(frames)
        at = dice.randrange(len(one) + 1)
        roll = dice.randrange(5)
        if roll == 0 and one:
            one[at % len(one)] ^= 1 << dice.randrange(8)
        elif roll == 1:
            one[at:at] = dice.randbytes(dice.choice([1, 8, 300]))
        elif roll == 2:
            del one[at : at + dice.choice([1, 10])]
        elif roll == 3:
            frames.insert(dice.randrange(len(frames)), bytearray(dice.randbytes(5)))
        elif len(frames) > 1:
            frames.pop(dice.randrange(len(frames)))
    return [bytes(one) for one in frames]


def send_messages():
    for _ in range(dice.choice([1, 5, 40])):
        kind = dice.choice(KINDS)
        frames = frames_of(kind, pack(content(kind)))
        iopub.send_multipart(broken(frames) if dice.random() < 0.3 else frames)


def change_answers():
    ops = [op for op in helper._ops if op != "status" or dice.random() < 0.2]
    op = dice.choice(ops)
    helper._ops[op] = lambda **kwargs: value()


def write_files():
    name = dice.choice(
        [
            "journal.jsonl",
            "stacks.txt",
            "kernel.log",
            "touched",
            "spill/" + parent["header"]["msg_id"] + ".txt",
        ]
    )
    path = os.path.join(directory, name)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        roll = dice.randrange(5)
        if roll == 0:
            os.truncate(path, dice.choice([0, 10, 1 << 33]))
        elif roll == 1:
            open(path, "ab").write(dice.randbytes(1000))
        elif roll == 2:
            open(path, "ab").write(
                b"\n".join(
                    pack(
                        {
                            "seq": value(),
                            "channel": dice.choice(["iopub", "shell", "begin", value()]),
                            **(value() if isinstance(value(), dict) else {}),
                        }
                    )
                    for _ in range(20)
                )
            )
        elif roll == 3:
            os.unlink(path)
        else:
            os.rename(path, path + ".x")
            os.mkfifo(path)
    except (OSError, TypeError):
        pass


def break_off():
    if dice.random() > 0.01:
        return
    for name in os.listdir("/proc/self/fd"):
        try:
            fd = int(name)
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                one = sockets.socket(fileno=os.dup(fd))
                if str(one.getsockname())[-2:] in ("-1", "-2", "-4"):
                    one.send(dice.randbytes(dice.choice([1, 9, 4000])))
        except OSError:
            pass


def overflow():
    send = lambda kind, part: session.send(iopub, kind, part, parent)
    for _ in range(dice.choice([1, 300, 3000])):
        send("stream", {"name": "stdout", "text": "x" * dice.choice([1, 1000])})


inner = type(kernel).do_execute
if not hasattr(type(kernel), "fuzzed"):
    type(kernel).fuzzed = True

    async def do_execute(self, *args, **kwargs):
        reply = await inner(self, *args, **kwargs)
        if dice.random() < 0.3:
            reply["kernelry"] = value()
        if dice.random() < 0.2:
            reply.update({key: value() for key in dice.sample(KEYS, 5)})
        return reply

    type(kernel).do_execute = do_execute
end = time.monotonic() + SECONDS
while time.monotonic() < end:
    dice.choices(
        [send_messages, change_answers, write_files, break_off, overflow], [70, 5, 10, 10, 2]
    )[0]()
