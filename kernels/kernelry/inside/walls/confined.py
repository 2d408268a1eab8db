"""Run a program within walls: ``confined PLAN PROGRAM ARGUMENT...``, or only prove them.

With ``-`` for the program it is read from stdin, as a list in JSON, when the walls stand: so
they can be built before it is known what to run.

The plan is JSON in the argument itself: a file could be changed by those it is to confine.
Without a program the walls are built and looked at; the exit code is 0 if they stand.
"""

import json
import os
import sys

from . import guard, limits

FROM_STDIN = "-"


def main(plan_text: str, *command: str) -> None:
    """Enter the walls of the plan and become the program."""
    plan = json.loads(plan_text)
    nothing = os.open(os.devnull, os.O_RDONLY)
    walls = guard.Walls(plan)
    try:
        limits.enter(plan.get("limits", {}))
        walls.enter()
        walls.close_sockets()
        walls.check()
    except (guard.WallError, OSError) as error:
        sys.stderr.write(f"the walls of '{plan['level']}' can't be built: {error}\n")
        sys.exit(126)
    if not command:
        return
    if command == (FROM_STDIN,):
        with os.fdopen(os.dup(0), "rb") as stdin:
            text = stdin.read()
        if not text:  # nothing is to be run after all
            return
        command = tuple(json.loads(text))
        os.dup2(nothing, 0)
    try:
        os.execv(command[0], command)
    except OSError as error:
        sys.stderr.write(f"can't run {command[0]}: {error.strerror}\n")
        sys.exit(127)
