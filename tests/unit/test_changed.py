"""`scripts/test --changed` finds the tests that a change asks for."""

import pytest
from changed import Changes
from house import House


@pytest.fixture(scope="module")
def changes() -> Changes:
    return Changes(House())


def test_a_change_asks_for_the_tests_of_its_room_and_of_those_that_import_it(
    changes: Changes,
) -> None:
    found = changes.tests(["kernels/kernelry/history/search.py"])
    assert "tests/integration/history" in found
    assert "tests/faults/test_store_faults.py" not in found
    found = changes.tests(["kernels/kernelry/output/saving.py"])
    assert {"tests/unit/output", "tests/integration/session"} <= set(found)
    assert "tests/unit/messaging" not in found


def test_a_change_of_what_only_processes_reach_asks_for_what_the_table_names(
    changes: Changes,
) -> None:
    assert "tests/attacks" in changes.tests(["kernels/kernelry/inside/walls/guard.py"])
    assert "tests/acceptance" in changes.tests(["server/kernelry_mcp/tools/files.py"])


def test_changed_tests_and_pages_ask_for_themselves(changes: Changes) -> None:
    test = "tests/integration/history/test_export.py"
    assert changes.tests([test, "docs/sessions.md"]) == [
        "tests/docs",
        test,
        "tests/unit/test_house.py",
    ]
    assert "tests/faults/test_cells.py" in changes.tests(["tests/faults/kernels.py"])


@pytest.mark.parametrize("file", ["pyproject.toml", "tests/conftest.py"])
def test_a_change_of_what_all_stand_on_asks_for_all(changes: Changes, file: str) -> None:
    assert changes.tests([file]) == ["tests"]
