"""Drive a real kernelry server over stdio, as an agent's host does, and check what comes back.

Called by scripts/demo. Exits with 0 only if everything was as expected.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters

KERNELRY = Path(sys.executable).with_name("kernelry")
PACKAGE = "humanize"  # small, pure Python, and in nobody's data stack
PNG = b"\x89PNG\r\n\x1a\n"

MAKE_DATA = """
import numpy as np
import pandas as pd

rng = np.random.default_rng(42)
raw_data = {name: rng.normal(size=600) for name in ('col_a', 'col_b', 'col_c')}
df = pd.DataFrame(raw_data)
df['target'] = np.where(df.col_a * df.col_b + 0.1 * rng.normal(size=600) > 0, 'yes', 'no')
df.loc[rng.choice(600, 40, replace=False), 'col_c'] = np.nan

df_clean = df.dropna()
df_clean.to_csv('outputs/clean_data.csv', index=False)
print(f"Cleaned data shape: {df_clean.shape}")
"""

MAKE_FEATURES = """
import pandas as pd
from sklearn.preprocessing import StandardScaler

df = pd.read_csv('outputs/clean_data.csv')
df['feature_1'] = df['col_a'] * df['col_b']
df['feature_2'] = df['col_c'].rolling(window=3).mean()

scaler = StandardScaler()
numeric_cols = df.select_dtypes(include=['float64', 'int64']).columns
df[numeric_cols] = scaler.fit_transform(df[numeric_cols])
df.to_csv('outputs/features.csv', index=False)
print(f"Features shape: {df.shape}")
"""

TRAIN_MODEL = """
import pandas as pd
from sklearn.model_selection import train_test_split
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score
import joblib

df = pd.read_csv('outputs/features.csv')
X = df.drop('target', axis=1)
y = df['target']
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=42)

model = RandomForestClassifier(n_estimators=100, random_state=42)
model.fit(X_train, y_train)
accuracy = accuracy_score(y_test, model.predict(X_test))
joblib.dump(model, 'outputs/model.pkl')
print(f"Model accuracy: {accuracy:.4f}")
"""

PLOT = """
import matplotlib.pyplot as plt

importances = pd.Series(model.feature_importances_, X.columns).sort_values()
importances.plot.barh(title='What the model looks at', figsize=(6, 3))
plt.tight_layout()
plt.show()
"""

COUNT = """
import time
for second in range(1, 5):
    time.sleep(0.6)
    print('step', second, 'of 4')
"""


class UnexpectedError(Exception):
    """The server did something else than it should."""


def check(truth: bool, what: str) -> None:
    """Stop the demo if something is not as it should be."""
    if not truth:
        raise UnexpectedError(what)


class Demo:
    """A client that says what it calls and what comes back."""

    def __init__(self, client: Client, workspace: Path) -> None:
        self.client = client
        self.workspace = workspace
        self.calls = 0
        self.pids: set[int] = set()
        self.findings: list[str] = []
        #: what was not as expected
        self.failure = ""

    def section(self, title: str) -> None:
        """Begin a part."""
        print(f"\n{title}")

    def say(self, text: str) -> None:
        """Add a remark."""
        print(f"   . {text}")

    async def call(self, tool: str, *, error: bool = False, **arguments: Any) -> dict[str, Any]:
        """Call a tool, print a line about it, and return its structured result.

        Args:
            tool: Its name.
            error: Whether a tool error is what is expected.
            **arguments: Its arguments.
        """
        started = time.perf_counter()
        answer = await self.client.call_tool(tool, arguments)
        seconds = time.perf_counter() - started
        self.calls += 1
        result: dict[str, Any] = answer.structured_content or {}
        first = (
            answer.content[0].text if answer.content and answer.content[0].type == "text" else ""
        )
        where = arguments.get("session_id") or result.get("session_id", "")
        shown = summary(result) or sentence(first, where)
        print(f"   {tool:<27} {where:<19} {seconds:5.2f} s  {shorten(shown)}")
        check(answer.is_error is error, f"{tool}: {first}")
        return result

    async def run(self, session_id: str, code: str, **more: Any) -> dict[str, Any]:
        """Run code that is expected to complete."""
        result = await self.call("run_python_code", session_id=session_id, code=code, **more)
        check(result["status"] == "completed", f"{result['status']}: {result['error']}")
        return result


def summary(result: dict[str, Any]) -> str:
    """Return what is worth a line of an execution; empty: it is none, or an error."""
    if "execution_id" not in result or "stdout" not in result:
        return ""
    told = [*result["stdout"].strip().splitlines()[-1:], *result["results"][-1:]]
    if result["error"]:
        told = [f"{result['error']['type']}: {result['error']['message']}"]
    if result["outputs"]:
        told = [file["path"] for file in result["outputs"]]
    return ": ".join([result["status"], *([", ".join(told)] if told else [])])


def sentence(text: str, session_id: str) -> str:
    """Return the first sentence of an answer, without the session that the line names."""
    first = text.split("\n")[0].split(". ")[0]
    return first.removeprefix(f"Session '{session_id}'").lstrip(": ").rstrip(":.")


def shorten(text: str) -> str:
    """Return the first line of a text, cut to the width of a terminal."""
    line = text.strip().split("\n")[0]
    return line if len(line) <= 68 else line[:65] + "..."


async def pipeline(demo: Demo) -> None:
    """Three stages in three sessions that hand over files."""
    demo.section("1. A pipeline: three sessions, three kernels, one workspace")
    stages = {
        "data_collection": ("Raw data ingestion and cleaning", MAKE_DATA),
        "feature_engineering": ("Feature creation and transformation", MAKE_FEATURES),
        "model_training": ("ML model training and validation", TRAIN_MODEL),
    }
    for session_id, (description, code) in stages.items():
        await demo.call("create_session", session_id=session_id, description=description)
        result = await demo.run(session_id, code)
        check(bool(result["new_files"]), f"{session_id} wrote no file")
    accuracy = float(result["stdout"].split()[-1])
    check(accuracy > 0.8, f"the model is no good: {accuracy}")
    demo.findings.append(f"three-stage pipeline, model accuracy {accuracy:.2f}")

    demo.section("2. Sessions are isolated: variables are not shared, only files are")
    result = await demo.run("data_collection", "'model' in globals()")
    check(result["results"] == ["False"], "a variable leaked between sessions")
    listed = await demo.call("list_variables", session_id="model_training")
    check("model" in listed["variables"], "the model is not among the variables")


async def packages(demo: Demo) -> None:
    """A package of one session only."""
    demo.section("3. Packages belong to one session")
    wanted = ["scikit-learn", "joblib", PACKAGE]
    report = await demo.call("install_dependencies", session_id="model_training", packages=wanted)
    if report["returncode"] != 0:
        demo.say("Nothing could be installed. Without a network that is expected; going on.")
        demo.say(f"uv says: {shorten(report['stderr'])}")
        demo.findings.append("packages: skipped, nothing could be installed here")
        return
    demo.say("scikit-learn and joblib were there already; only what was missing is installed.")
    use = f"import {PACKAGE}; {PACKAGE}.intword(1_200_000)"
    result = await demo.run("model_training", use)
    check(result["results"] == ["'1.2 million'"], f"unexpected: {result['results']}")
    result = await demo.call("run_python_code", session_id="data_collection", code=use)
    check(result["status"] == "failed", "another session sees the package")
    check(result["error"]["type"] == "ModuleNotFoundError", str(result["error"]))
    demo.findings.append(f"{PACKAGE} installed in one session, unknown in the others")


async def picture(demo: Demo) -> None:
    """A plot comes back as an image and stays as a file."""
    demo.section("4. A plot comes back as an image, and its file stays in outputs/")
    result = await demo.run("model_training", PLOT)
    check(len(result["outputs"]) == 1, "not one image")
    path = demo.workspace / result["outputs"][0]["path"]
    check(path.read_bytes().startswith(PNG), f"{path} is no PNG")
    demo.findings.append(f"plot: {path} ({path.stat().st_size:,} bytes)")


async def parallel(demo: Demo) -> None:
    """Two sessions work at the same time."""
    demo.section("5. Sessions run in parallel: two of them sleep 2 s, at once")
    started = time.perf_counter()
    await asyncio.gather(
        *(
            demo.run(session_id, f"import time; time.sleep(2); print('{session_id} slept')")
            for session_id in ("data_collection", "feature_engineering")
        )
    )
    seconds = time.perf_counter() - started
    demo.say(f"Both together took {seconds:.2f} s.")
    check(2 <= seconds < 3.5, f"{seconds:.2f} s is not parallel")
    demo.findings.append(f"two sleeps of 2 s at once took {seconds:.2f} s")


async def long_cell(demo: Demo) -> None:
    """A call may stop waiting; the execution goes on."""
    demo.section("6. A long cell: the call answers at once, the execution goes on")
    result = await demo.call("run_python_code", session_id="data_collection", code=COUNT, wait=0)
    check(result["status"] == "running", f"not running but {result['status']}")
    execution_id = result["execution_id"]
    result = await demo.call("get_execution", execution_id=execution_id, wait=1)
    check(result["status"] == "running", f"not running but {result['status']}")
    result = await demo.call("get_execution", execution_id=execution_id, wait=30)
    check(result["status"] == "completed", f"not completed but {result['status']}")
    check(result["stdout"].count("step") == 4, "output is missing")


async def failures(demo: Demo) -> None:
    """What goes wrong is told, with its cause and the next step."""
    demo.section("7. Code that fails is a result; its session goes on")
    result = await demo.call("run_python_code", session_id="data_collection", code="1 / 0")
    check(result["status"] == "failed", f"not failed but {result['status']}")
    check(result["error"]["type"] == "ZeroDivisionError", str(result["error"]))
    await demo.run("data_collection", "print('still here,', len(df), 'rows')")

    demo.section("8. A kernel that dies takes its variables along, and nothing else")
    code = "import os; os._exit(7)"
    result = await demo.call("run_python_code", session_id="data_collection", code=code)
    check(result["status"] == "died", f"not died but {result['status']}")
    health = await demo.call("get_kernel_health", session_id="data_collection")
    check(health["status"] == "dead", f"not dead but {health['status']}")
    refused = await demo.call(
        "run_python_code", session_id="data_collection", code="df", error=True
    )
    check(refused["error"]["code"] == "kernel_dead", str(refused))
    await demo.call("restart_kernel", session_id="data_collection")
    code = "import pandas as pd; 'df' in globals(), len(pd.read_csv('outputs/clean_data.csv'))"
    result = await demo.run("data_collection", code)
    check(result["results"] == ["(False, 560)"], f"unexpected: {result['results']}")
    demo.findings.append("a kernel ended with os._exit(7), was reported dead, and restarted")


async def health_and_end(demo: Demo) -> None:
    """Look after all sessions, then delete them."""
    demo.section("9. Health of every session")
    listed = await demo.call("list_sessions")
    check(listed["total_sessions"] == 4, f"{listed['total_sessions']} sessions")
    for session_id in listed["sessions"]:
        await demo.call("switch_session", session_id=session_id)
        health = await demo.call("get_kernel_health")
        answer = await demo.call("check_kernel_responsiveness")
        check(health["session_id"] == session_id, "the default session was not switched")
        check(health["status"] == "healthy", f"{session_id} is {health['status']}")
        check(answer["responsive"], f"{session_id} does not answer")
        demo.pids.add(health["pid"])

    demo.section("10. The end")
    for session_id in listed["sessions"]:
        if session_id != "default":
            await demo.call("delete_session", session_id=session_id)
    refused = await demo.call("delete_session", session_id="default", error=True)
    check(refused["error"]["code"] == "conflict", str(refused))


PARTS = (pipeline, packages, picture, parallel, long_cell, failures, health_and_end)


async def show(workspace: Path, state: Path) -> Demo:
    """Run the whole demo against a server of its own."""
    arguments = ["serve", "--workspace", str(workspace), "--state-dir", str(state)]
    arguments += ["--log-level", "WARNING"]
    print(f"A host starts:  kernelry serve --workspace {workspace} ...")
    print("Each line: tool, session, seconds, and what came back.")
    async with Client(StdioServerParameters(command=str(KERNELRY), args=arguments)) as client:
        demo = Demo(client, workspace)
        try:
            for part in PARTS:
                await part(demo)
        except UnexpectedError as error:
            demo.failure = str(error)
    return demo


def is_alive(pid: int) -> bool:
    """Say whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> int:
    """Show everything; return the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the workspace and its files")
    keep = parser.parse_args().keep
    started = time.perf_counter()
    with ExitStack() as stack:
        if keep:
            scratch = Path(tempfile.mkdtemp(prefix="kernelry-demo-"))
        else:
            scratch = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="kernelry-demo-"))
            )
        workspace = scratch / "workspace"
        demo = asyncio.run(show(workspace, scratch / "state"))
    left = [pid for pid in demo.pids if is_alive(pid)]
    failure = demo.failure or (f"kernels outlived their server: {left}" if left else "")
    if failure:
        print(f"\nNot as expected: {failure}", file=sys.stderr)
        return 1
    print("   The server has ended, and all kernels with it.")
    print(f"\nAs expected: {demo.calls} calls in {time.perf_counter() - started:.1f} s")
    for finding in demo.findings:
        print(f"   - {finding}")
    if keep:
        print(f"The workspace is kept: {workspace}")
    else:
        print("The workspace is removed; scripts/demo --keep keeps it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
