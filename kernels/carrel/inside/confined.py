"""Run a program within walls: ``confined PLAN PROGRAM ARGUMENT...``, or only prove them.

The plan is JSON in the argument itself: a file could be changed by those it is to confine.
Without a program the walls are built and looked at; the exit code is 0 if they stand.
"""

import json
import os
import sys

from . import guard, limits


def main(plan_text: str, *command: str) -> None:
    """Enter the walls of the plan and become the program."""
    plan = json.loads(plan_text)
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
    try:
        os.execv(command[0], command)
    except OSError as error:
        sys.stderr.write(f"can't run {command[0]}: {error.strerror}\n")
        sys.exit(127)
