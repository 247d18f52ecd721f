"""Objects from a user's own file: one module object in a process, the same in worker processes, refusals in words."""

import multiprocessing
import pickle
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from visuomotor.plugins import is_reference, load

FILE = """
from dataclasses import dataclass
from pathlib import Path
import plugin_neighbour

@dataclass(frozen=True)
class Robot:
    joints: int = plugin_neighbour.JOINTS
    def arms(self):
        return isinstance(self, Robot) and self.joints // 7

def build():
    return Robot(14)

ARM = Robot()
LEGS = (1, 2)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "100% mine, v1.0"
    folder.mkdir()
    (folder / "plugin_neighbour.py").write_text("JOINTS = 7\n")
    path = folder / "robots.py"
    path.write_text(FILE)
    return path


def test_a_reference_is_recognised() -> None:
    assert is_reference("a/b.py:thing")
    assert is_reference("b.py")
    assert not any(map(is_reference, ("tabletop", "runs/train", "ws://host:8000", "pyramid", "")))


def test_every_reference_to_a_file_gives_the_same_module(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = load(f"{file}:Robot", type, "a robot class")
    assert isinstance(load(f"{file}:ARM", kind, "a robot"), kind)
    monkeypatch.chdir(file.parent.parent)
    link = file.parent.parent / "link.py"
    link.symlink_to(file)
    for path in (f"{file.parent.name}/robots.py", f"{file.parent}/../{file.parent.name}/robots.py", "link.py"):
        assert load(f"{path}:Robot", type, "a robot class") is kind
    assert load(f"{file}:build", FunctionType, "a recipe")().arms() == 2


def test_a_module_that_is_imported_already_is_not_loaded_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(file.parent))
    import robots  # type: ignore[import-not-found]

    assert load(f"{file}:Robot", type, "a robot class") is robots.Robot
    monkeypatch.delitem(sys.modules, "robots")


def test_instances_come_back_from_a_spawned_process(file: Path) -> None:
    robot = load(f"{file}:ARM", object, "a robot")
    assert pickle.loads(pickle.dumps(robot)) == robot
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        answer = pool.apply(_in_the_worker, (robot, f"{file}:Robot"))
    assert answer == (1, robot)
    assert type(answer[1]) is type(robot)


def _in_the_worker(robot: Any, reference: str) -> tuple[int, Any]:
    if not isinstance(robot, load(reference, type, "a robot class")):
        raise AssertionError("unpickling and loading gave two classes")
    return robot.arms(), robot


def test_a_file_alone_stands_for_its_only_object_of_the_type(file: Path) -> None:
    assert load(str(file), tuple, "legs") == (1, 2)
    assert load(str(file), type, "a class").__name__ == "Robot"  # imported names do not count


@pytest.mark.parametrize(
    ("name", "expected", "message"),
    [
        (":AMR", object, "has no 'AMR'. Did you mean 'ARM'"),
        (":LEGS", dict, "LEGS is of type tuple, but a robot must be of type dict."),
        (":Robot", (dict, tuple), r"is the class Robot, but a robot must be of type dict or tuple. .* LEGS"),
        ("", (tuple, type), "does not say which object is a robot. .* the file has Robot, LEGS"),
        ("", dict, "Expected dict; the file has none. Give FILE.py:NAME"),
    ],
)
def test_refusals(file: Path, name: str, expected: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(f"{file}{name}", expected, "a robot")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no file .*none.py, from which a world was to be loaded"):
        load(f"{tmp_path}/none.py:WORLD", object, "a world")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import os\nimport no_such_package\n", r"line 2: loading the file raised ModuleNotFoundError: .*no_such"),
        ("def half(:\n", r"raised SyntaxError: .*line 1"),
        ("x = 1\nopen('/no/such/file')\n", r"line 2: loading the file raised FileNotFoundError"),
    ],
)
def test_a_file_that_fails_says_where(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    for _ in range(2):  # the failed module is not kept
        with pytest.raises(ValueError, match=message):
            load(f"{path}:thing", object, "a world")
