"""Namespaces as files: what comes back, what is left out, what a failure leaves alone."""

import importlib
import importlib.util
import io
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kernelry.engines.launch import cloudpickle as own_cloudpickle
from kernelry.walls import INSIDE

PACKAGE = "inside_of_a_snapshot_test"


@pytest.fixture(scope="module")
def inside() -> Iterator[ModuleType]:
    """The folder that runs in kernels, as a package of another name."""
    spec = importlib.util.spec_from_file_location(
        PACKAGE, INSIDE.with_name("__init__.py"), submodule_search_locations=[str(INSIDE.parent)]
    )
    assert spec is not None
    package = sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
    for name in ("snapshot", "restoring"):
        importlib.import_module(f"{PACKAGE}.saving.{name}")
    yield package
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]


class Space:
    """A namespace in which code can be run, and that can be saved."""

    def __init__(self, inside: ModuleType, code: str = "", **more: Any) -> None:
        self._inside = inside
        self.names: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__, **more}
        self.run(code)

    def run(self, code: str) -> None:
        exec(code, self.names)

    def __getitem__(self, name: str) -> Any:
        return self.names[name]

    def save(self) -> tuple[bytes, Any]:
        file = io.BytesIO()
        cloudpickle = self._inside.saving.snapshot.load_cloudpickle(str(own_cloudpickle()))
        snapshot = self._inside.saving.snapshot.Snapshot(self.names, cloudpickle, file)
        snapshot.save(self._inside.saving.snapshot.user_names(self.names, {}))
        return file.getvalue(), snapshot

    def restored(self) -> "Space":
        return self.load(self.save()[0])[0]

    def load(self, data: bytes) -> tuple["Space", Any]:
        space = Space(self._inside)
        values, told = self._inside.saving.restoring.read_snapshot(io.BytesIO(data), space.names)
        space.names.update(values)
        return space, told


def test_values_and_functions_come_back_and_functions_see_the_new_namespace(
    inside: ModuleType,
) -> None:
    code = """
import math
scale, _hidden = 10, 2
def f(x): return x * scale + _hidden + int(math.pi)
class C:
    def __init__(self): self.v = scale
    def get(self): return self.v * scale
c = C()
def outer():
    n = 0
    def inner(): return n if n else f(1)
    return inner
g = outer()
"""
    new = Space(inside, code).restored()
    assert new["f"](1) == 15 and new["c"].get() == 100 and new["g"]() == 15
    new.run("scale = 3")
    assert new["f"](1) == 8 and new["c"].get() == 30 and new["g"]() == 8
    assert new["f"].__globals__ is new.names and isinstance(new["c"], new["C"])
    assert new["__builtins__"] is __builtins__


def test_the_namespace_itself_and_what_is_shared_stay_so(inside: ModuleType) -> None:
    space = Space(inside, "a = [1]; b = a; c = {'a': a, 'g': [globals()]}; d = globals()")
    new = space.restored()
    assert new["b"] is new["a"] is new["c"]["a"]
    assert new["d"] is new["c"]["g"][0] is new.names


def test_arrays_and_tables_come_back_equal_writable_and_shared(inside: ModuleType) -> None:
    big, small = np.arange(100_000.0), np.arange(5)
    fixed = np.ones(50_000)
    fixed.flags.writeable = False
    table = pd.DataFrame({"n": np.arange(20_000), "s": [str(n) for n in range(20_000)]})
    space = Space(inside, big=big, small=small, fixed=fixed, table=table, again=[big])
    new = space.restored()
    assert np.array_equal(new["big"], big) and np.array_equal(new["small"], small)
    assert new["table"].equals(table) and new["again"][0] is new["big"]
    new["big"][0] = 7
    assert not new["fixed"].flags.writeable


def test_what_can_not_be_saved_is_named_with_its_reason(inside: ModuleType, tmp_path: Path) -> None:
    with (tmp_path / "a").open("w", encoding="utf-8") as file:
        space = Space(inside, lock=threading.Lock(), items=(n for n in [1]), file=file, x=1)
        _, snapshot = space.save()
    reasons = {entry["name"]: (entry["type"], entry["reason"]) for entry in snapshot.skipped}
    assert set(reasons) == {"lock", "items", "file"}
    assert "lock" in reasons["lock"][1] and "generator" in reasons["items"][1]
    assert reasons["file"] == ("_io.TextIOWrapper", "PicklingError: an open file can't be saved")
    assert [entry["name"] for entry in snapshot.variables] == ["x"]


def test_a_variable_that_fails_takes_nothing_along(inside: ModuleType) -> None:
    array, text = np.arange(100_000.0), "shared" * 10
    code = """
class Bad:
    def __reduce__(self): raise RuntimeError('no')
def f(): return len(text)
bad = [array, text, f, Bad, Bad()]
zz_last = {'array': array, 'text': text, 'f': f, 'Bad': Bad}
"""
    space = Space(inside, code, array=array, text=text)
    _, snapshot = space.save()
    assert [(e["name"], e["reason"]) for e in snapshot.skipped] == [("bad", "RuntimeError: no")]
    new = space.restored()
    assert np.array_equal(new["array"], array)
    last = new["zz_last"]
    assert last["array"] is new["array"] and last["text"] == text
    assert last["f"] is new["f"] and last["Bad"] is new["Bad"] and new["f"]() == 60


def test_what_can_not_be_restored_is_named_and_all_else_comes_back(inside: ModuleType) -> None:
    gone = ModuleType("gone_module")
    exec("class Model:\n    def __init__(self, a): self.a = a", gone.__dict__)
    sys.modules["gone_module"] = gone
    array = np.arange(100_000.0)
    code = """
class Picky:
    def __setstate__(self, state): raise ValueError('refused')
picky = Picky()
picky.v = 1
box = [0]
model = Model(array)
model.box = box
holder = {'deep': [model]}
holder2 = (1, box)
"""
    space = Space(inside, f"from gone_module import Model\n{code}", array=array)
    data, snapshot = space.save()
    del sys.modules["gone_module"]
    assert not snapshot.skipped
    new, told = space.load(data)
    failed = {entry["name"]: entry["reason"] for entry in told["failed"]}
    assert set(failed) == {"Model", "model", "holder", "picky"}
    assert "gone_module" in failed["holder"] and failed["picky"] == "ValueError: refused"
    assert np.array_equal(new["array"], array) and new["holder2"][1] is new["box"]
    assert new["Picky"]().__class__ is new["Picky"]


def test_code_of_another_python_is_not_run_but_data_come_back(inside: ModuleType) -> None:
    space = Space(inside, "def f(): return 1\nx = {'a': [1, 2]}\nboth = [f]")
    data, _ = space.save()
    mine = f'"python": "{sys.version_info[0]}.{sys.version_info[1]}.{sys.version_info[2]}"'
    other = mine.replace(f'"{sys.version_info[0]}.', '"9.')
    assert len(mine) == len(other) and mine.encode() in data
    new, told = space.load(data.replace(mine.encode(), other.encode()))
    assert {entry["name"] for entry in told["failed"]} == {"f", "both"}
    assert all("can't run in Python" in entry["reason"] for entry in told["failed"])
    assert new["x"] == {"a": [1, 2]} and "saved with Python 9." in told["warnings"][0]


@pytest.mark.parametrize("name", ["_", "___", "_i", "_ii", "_i12", "_7", "_oh", "_ih", "__x__"])
def test_names_of_ipython_are_left_out(inside: ModuleType, name: str) -> None:
    assert not inside.saving.snapshot.user_names({name: 1}, {})


@pytest.mark.parametrize("name", ["x", "_private", "__mangled", "_ix", "i"])
def test_names_of_the_user_are_not(inside: ModuleType, name: str) -> None:
    assert inside.saving.snapshot.user_names({name: 1}, {}) == [name]


def test_what_is_no_checkpoint_is_refused(inside: ModuleType) -> None:
    for data in (b"", b"x" * 100, inside.saving.snapshot.MAGIC * 3):
        with pytest.raises(inside.saving.snapshot.SnapshotError, match="no checkpoint"):
            inside.saving.restoring.read_snapshot(io.BytesIO(data), {})


def test_arrays_that_share_memory_are_looked_for_within_a_bound(inside: ModuleType) -> None:
    """A namespace waits to be saved until they were: not for each number of a table of lists."""
    surroundings = inside.saving.surroundings
    whole = np.zeros(4)
    near, far = [whole[:2]], [*range(surroundings.LOOKED_AT), whole[2:]]
    found = [
        *surroundings.changed({"near": near, "whole": whole, "far": far}, ["near", "whole", "far"])
    ]
    assert found == ["near, whole shared their memory and are separate copies now"]
    left = iter(range(surroundings.LOOKED_AT))
    cube = [[[0] * 100] * 100] * 100
    assert [*surroundings.arrays_in(cube, left)] == []
    assert next(left, None) is None
