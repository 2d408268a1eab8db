"""Every workflow of the reference's documentation, as written, over each client and wire."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client as FastClient
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport

from . import seed_snippets
from .harness import KERNELRY, MODERN, Place, http_agent, http_server, stdio_agent, unavailable

WIRES = [
    "fastmcp-stdio",
    "fastmcp-http",
    "mcp-stdio-modern",
    "mcp-stdio-legacy",
    "mcp-http-modern",
    "mcp-http-legacy",
]
MODES = {"modern": MODERN, "legacy": "legacy"}


class Watched:
    """A client whose calls and answers are kept; what the snippets are given."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.answers: list[tuple[str, dict[str, Any]]] = []

    async def call_tool(self, *call: Any) -> Any:
        """Call a tool exactly as the snippet does."""
        answer = await self._client.call_tool(*call)
        assert type(answer.data) is dict
        self.answers.append((call[0], answer.data))
        return answer

    def of(self, tool: str) -> list[dict[str, Any]]:
        """Return the answers of one tool, in order."""
        return [data for name, data in self.answers if name == tool]

    def outputs(self) -> list[str]:
        """Return what the executions printed; all of them must have completed."""
        runs = self.of("run_python_code")
        assert [run["status"] for run in runs] == ["completed"] * len(runs), runs
        return [run["stdout"] for run in runs]


@asynccontextmanager
async def connected(wire: str, place: Place) -> AsyncIterator[Any]:
    """Connect a client of some make over some transport to a server of its own."""
    match wire.split("-"):
        case ["fastmcp", "stdio"]:
            transport = StdioTransport(
                str(KERNELRY),
                place.arguments(),
                env=place.environment(),
                cwd=str(place.root),
                keep_alive=False,
                log_file=place.log,
            )
            async with FastClient(transport) as client:
                yield client
        case ["fastmcp", "http"]:
            with http_server(place) as server:
                http = StreamableHttpTransport(server.url, headers=server.headers)
                async with FastClient(http) as client:
                    yield client
        case ["mcp", "stdio", mode]:
            async with stdio_agent(place, mode=MODES[mode]) as agent:
                yield agent
        case ["mcp", "http", mode]:
            with http_server(place) as server:
                async with http_agent(server, mode=MODES[mode]) as agent:
                    yield agent


@pytest.fixture(params=WIRES)
async def client(request: pytest.FixtureRequest, place: Place) -> AsyncIterator[Watched]:
    """Each client over each wire."""
    async with connected(request.param, place) as client:
        yield Watched(client)


async def test_sessions_do_not_see_each_others_variables(client: Watched) -> None:
    await seed_snippets.session_isolation(client)
    assert client.outputs() == ["", "False\n"]


async def test_a_session_lives_from_creation_over_listing_and_switching_to_deletion(
    client: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    await seed_snippets.creating_sessions(client)
    await seed_snippets.session_information(client)
    assert capsys.readouterr().out.splitlines() == [
        "Active: default",
        "Total: 3",
        "- default: The session that is always there",
        "- experiment_1: ",
        "- ml_pipeline: Machine learning training pipeline",
    ]
    await seed_snippets.switching_between_sessions(client)
    assert capsys.readouterr().out == "Switched from default to ml_pipeline\n"
    await seed_snippets.cleaning_up_sessions(client)
    left = await client.call_tool("list_sessions")
    assert list(left.data["sessions"]) == ["default", "ml_pipeline"]
    assert left.data["active_session"] == "ml_pipeline"


async def test_a_pipeline_passes_files_from_session_to_session_and_experiments_follow(
    client: Watched, place: Place
) -> None:
    await seed_snippets.data_pipeline_workflow(client)
    collected, engineered, trained = client.outputs()
    assert collected == "Cleaned data shape: (294, 4)\n"
    assert engineered == "Features shape: (294, 6)\n"
    accuracy = float(trained.removeprefix("Model accuracy: "))
    assert accuracy > 0.9
    [installed] = client.of("install_dependencies")
    assert installed["returncode"] == 0, installed
    assert installed["session_id"] == "model_training"
    assert (place.outputs / "model.pkl").stat().st_size > 0

    await seed_snippets.parallel_experiments(client)
    names = ["linear_model", "random_forest", "gradient_boost", "neural_net"]
    *experiments, comparison = client.outputs()[3:]
    assert experiments == [f"Experiment {name} completed\n" for name in names]
    assert comparison.startswith("Experiment Results:\n")
    assert all(name in comparison for name in names)
    saved = [json.loads((place.outputs / f"results_{name}.json").read_text()) for name in names]
    assert [item["experiment_id"] for item in saved] == names
    assert len((place.outputs / "experiment_comparison.csv").read_text().splitlines()) == 5
    assert [run["session_id"] for run in client.of("run_python_code")] == [
        "data_collection",
        "feature_engineering",
        "model_training",
        *names,
        "results_analysis",
    ]


async def test_the_health_loop_finds_every_kernel_healthy(
    client: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    await seed_snippets.creating_sessions(client)
    await seed_snippets.monitor_session_health(client)
    printed = capsys.readouterr().out.splitlines()
    assert printed[::4] == [
        f"Session {name}:" for name in ("default", "experiment_1", "ml_pipeline")
    ]
    assert printed[1::4] == ["  Status: healthy"] * 3
    assert printed[2::4] == ["  Responsive: True"] * 3
    megabytes = [float(line.split()[1]) for line in printed[3::4]]
    assert all(5 < size < 500 for size in megabytes), megabytes


async def test_the_cleanup_loop_deletes_what_is_old_and_large_and_nothing_else(
    client: Watched,
) -> None:
    await seed_snippets.creating_sessions(client)
    await seed_snippets.cleanup_idle_sessions(client)
    assert not client.of("delete_session")  # nothing here is an hour old

    class Aged(Watched):
        """A client that reads of kernels which were started long ago and took much memory."""

        async def call_tool(self, *call: Any) -> Any:
            answer = await super().call_tool(*call)
            if call[0] == "get_kernel_health":
                answer.data.update(uptime=3601.0, memory_usage=501 * 1024**2)
            return answer

    await seed_snippets.cleanup_idle_sessions(Aged(client))
    left = await client.call_tool("list_sessions")
    assert list(left.data["sessions"]) == ["default"]
    assert left.data["active_session"] == "default"


async def test_interactive_development_installs_its_tools_and_saves_a_script(
    client: Watched, place: Place
) -> None:
    await seed_snippets.interactive_development(client)
    [installed] = client.of("install_dependencies")
    if offline(installed["stderr"]):
        unavailable(f"the package index can't be reached: {installed['stderr']}")
    assert installed["returncode"] == 0, installed
    assert any(pin.startswith("seaborn==") for pin in installed["installed"])
    [greeting] = client.outputs()
    assert greeting.splitlines()[0] == "Development environment ready!"
    [saved] = client.of("save_script")
    assert saved["script"] == "scripts/analysis_utils.py"
    assert "def quick_plot" in (place.workspace / saved["script"]).read_text()
    use = "import analysis_utils; analysis_utils.data_summary(pd.DataFrame({'a': [1, 2]}))"
    used = await client.call_tool("run_python_code", {"code": use})
    assert "'shape': (2, 1)" in used.data["results"][0], used.data
    elsewhere = {"code": "import seaborn", "session_id": "default"}
    other = await client.call_tool("run_python_code", elsewhere)
    assert other.data["error"]["type"] == "ModuleNotFoundError"


def offline(message: str) -> bool:
    """Say whether uv's words mean that there is no network."""
    signs = ("dns error", "failed to lookup", "error sending request", "Connection refused")
    return any(sign in message for sign in signs)


def test_the_snippets_hold_no_web_request() -> None:
    assert "requests" not in Path(seed_snippets.__file__).read_text()
