"""Run a script of the workspace as a program of its own, in a session's environment."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from kernelry.beneath import make_private
from kernelry.programs import Completed, run_program
from kernelry.session import Session
from kernelry.shielding import to_the_end
from kernelry.usage import ScriptRun
from kernelry.walls import outside
from kernelry.workspace import scripts


async def run_script(
    session: Session, path: str, args: Sequence[str], *, timeout: float
) -> Completed:
    """Run a script of the workspace as a subprocess in a session's environment.

    It stands behind the session's walls, and sees its packages, not its variables.

    Args:
        session: Whose environment.
        path: Where the script is, relative to the workspace or to its scripts/.
        args: What it is given.
        timeout: Seconds after which it is ended.

    Raises:
        ScriptNotFoundError: There is none at that path.
        NotAFileError: It is a link, or no file.
    """
    workspace, launches = session.services.workspace, session.services.launches
    script = scripts.find_script(workspace, path)
    env = session.environment.variables(launches.environment(session.directory))
    paths = [str(workspace.scripts), *filter(None, [env.get("PYTHONPATH")])]
    env["PYTHONPATH"] = os.pathsep.join(paths)
    argv = [str(session.environment.python), str(script), *args]
    for folder in launches.of(session.directory, session.environment).folders:
        make_private(folder)
    if sys.platform == "linux":
        writes = [workspace.root, session.directory]
        reads = (await launches.interpreters.ask(session.environment.parent)).reads
        argv = session.walls.confine(argv, cwd=workspace.root, reads=reads, writes=writes)
        env = outside(env)
    run = ScriptRun(session.walls.limits.memory, grouped=session.walls.counts_all)
    try:
        with session.services.scripts.noted(session.id, run):
            done = await run_program(
                argv, env=env, cwd=workspace.root, timeout=timeout, started=run.begin
            )
    finally:
        await to_the_end(run.finish())
    return replace(done, stderr=f"{done.stderr}\n[{run.why}]") if run.why else done
