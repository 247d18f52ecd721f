"""The table in docs/design.md: which room may import which."""

import ast
import re
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "visuomotor"
CONTRACT = {"contract", "codec", "embodiment", "joint_limits", "spelling", "atomic", "locks", "plugins"}
HELPERS = {"spelling", "atomic", "codec", "lock_files", "locks", "plugins"}  # which the design counts to the contract
ALLOWED: dict[str, set[str]] = {
    "spelling": set(),
    "plugins": {"spelling"},
    "atomic": set(),
    "lock_files": set(),
    "locks": {"lock_files"},
    "codec": {"spelling"},
    "embodiment": {"codec"},
    "joint_limits": {"embodiment"},
    "contract": {"embodiment", "spelling"},
    "versions": set(),
    "text": CONTRACT,
    "data": CONTRACT | {"text"},
    "nn": CONTRACT,
    "backbones": CONTRACT | {"nn", "text"},
    "heads": CONTRACT | {"nn", "backbones"},
    "models": CONTRACT | {"nn", "text", "data", "backbones", "heads"},
    "session": CONTRACT,
    "policy": CONTRACT | {"session", "text", "data", "nn", "models", "client"},
    "training": CONTRACT | {"versions", "text", "data", "models", "policy"},
    "runtime": CONTRACT,
    "simulation": CONTRACT | {"versions", "text", "data", "runtime"},
    "serving": CONTRACT | {"versions", "session", "policy", "client"},
    "evaluation": CONTRACT | {"versions", "session", "policy", "simulation", "runtime", "client"},
}
EVERYTHING = {"recipes", "studies", "apps", "cli", "__init__"}
TABLE_ROW = re.compile(r"^\| `(\w+)(?:\.py|/|/<name>/)` \|.*\| ([^|]+) \|$", re.M)


def imported_rooms(path: Path) -> set[str]:
    """Rooms of visuomotor, and the robots' client, that a file imports, at any depth of its code."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "visuomotor":
                names = [f"visuomotor.{alias.name}" for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("visuomotor.")}
        rooms |= {"client" for name in names if name.split(".")[0] == "visuomotor_client"}
    return rooms


def imported_modules(path: Path, modules: set[str]) -> set[str]:
    """Those of `modules` that a file imports, inside functions and for type checkers too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= members & modules or {str(node.module)}
    return names & modules


def circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules that import each other, directly or by way of others."""
    reached = {}
    for start in imports:
        seen, front = set(), set(imports[start])
        while front:
            seen |= front
            front = set().union(*(imports[name] for name in front)) - seen
        reached[start] = seen
    circular = [name for name in imports if name in reached[name]]
    groups = [{other for other in circular if name in reached[other] and other in reached[name]} for name in circular]
    return [group for i, group in enumerate(groups) if group not in groups[:i]]


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_what_the_design_allows(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in EVERYTHING:
        return
    forbidden = imported_rooms(path) - ALLOWED[room] - {room}
    assert not forbidden, f"{path.relative_to(PACKAGE)} may not import {sorted(forbidden)}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    paths = {}
    for path in FILES:
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        paths[".".join(parts).removesuffix(".__init__")] = path
    imports = {name: imported_modules(path, set(paths)) - {name} for name, path in paths.items()}
    assert not circles(imports)


def test_circles_are_found_at_any_length() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"f"}, "f": {"e"}}) == [
        {"a", "b", "c"},
        {"e", "f"},
    ]


def test_the_design_says_the_same() -> None:
    rows = TABLE_ROW.findall((PACKAGE.parents[1] / "docs" / "design.md").read_text())
    parts = {room: set(names.split(", ")) - {"-"} for room, names in rows}
    said = {room: names - {"contract"} | (CONTRACT if "contract" in names else set()) for room, names in parts.items()}
    assert said == {room: allowed for room, allowed in ALLOWED.items() if room not in HELPERS}


def test_what_runs_on_the_robot_needs_numpy_alone_and_python_3_9() -> None:
    package = PACKAGE.parents[1] / "packages" / "visuomotor-client" / "src" / "visuomotor_client"
    for name in (
        "chunking", "component", "controller", "ensemble", "executors", "limiting", "limits", "loop",
        "motion", "requirements", "robot", "rotation", "safety", "selection", "values", "watchdog", "workspace",
    ):  # fmt: skip
        tree = ast.parse((package / f"{name}.py").read_text(), feature_version=(3, 9))
        for node in ast.walk(tree):
            found = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            found += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            outside = {f.split(".")[0] for f in found} - {"numpy", "visuomotor_client"} - set(sys.stdlib_module_names)
            assert not outside, f"{name} imports {outside}"
