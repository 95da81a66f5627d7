"""The house: which folder may import which, and how long files and functions are."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "jaxnas"

FLOORS = (
    ("version", "errors", "signatures"),
    ("checks", "compilation", "extras", "files"),
    ("ops",),
    ("model",),
    ("data",),
    ("spaces",),
    ("benchmarks",),
    ("foreign",),
    ("programs",),
    ("runs",),
    ("policies",),
    ("blackbox",),
    ("oneshot.engine",),
    ("oneshot.parts",),
    ("oneshot",),
    ("callbacks",),
    ("training",),
    ("report",),
    ("__init__",),
    ("quickstart",),
    ("cli",),
    ("__main__",),
)
"""From the ground up: a room imports only from floors below its own."""

HEIGHT = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def room(module):
    """The room that a module is in: its folder, or itself at the top."""
    parts = module.split(".")
    if len(parts) == 1:
        return parts[0]
    folder = ".".join(parts[:-1])
    return folder if folder in HEIGHT else parts[0]


def as_module(name):
    """The file that `jaxnas.<name>` is, or None."""
    if not name:
        return "__init__"
    return next((m for m in (name, f"{name}.__init__") if m in MODULES), None)


def imports(module):
    """The modules of ours that a module imports, with line numbers, those inside functions included."""
    found = []
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [
                f"{node.module}.{a.name}" if as_module(f"{node.module}.{a.name}"[7:]) else node.module
                for a in node.names
            ]
        else:
            continue
        for name in names:
            if name == "jaxnas" or name.startswith("jaxnas."):
                found.append((as_module(name[7:]), node.lineno))
    return found


def test_every_room_has_a_floor():
    assert {room(module) for module in MODULES} == set(HEIGHT)


@pytest.mark.parametrize("module", MODULES)
def test_arrows_between_rooms_run_downwards(module):
    up = [
        f"{module}:{line} imports {target}"
        for target, line in imports(module)
        if room(target) != room(module) and HEIGHT[room(target)] >= HEIGHT[room(module)]
    ]
    assert not up


def test_no_circle_of_files():
    arrows = defaultdict(set)
    for module in MODULES:
        arrows[module] |= {target for target, _ in imports(module)} - {module}
    done, path = set(), []

    def visit(module):
        assert module not in path, f"a circle: {' -> '.join([*path[path.index(module) :], module])}"
        if module in done:
            return
        path.append(module)
        for target in sorted(arrows[module]):
            visit(target)
        done.add(path.pop())

    for module in MODULES:
        visit(module)


LONGEST_FILE, LONGEST_FUNCTION = 350, 80
LONGER_FILES = {"ops.convolution": "one kernel: its gradients are written over one another"}
"""Files that may be longer, and why."""
LONGER_FUNCTIONS = {"policies.lstm:controller": "the functions inside share all that is known of the walk"}


def test_files_and_functions_can_be_held_in_mind():
    files = {m for m, path in MODULES.items() if len(path.read_text().splitlines()) > LONGEST_FILE}
    functions = set()
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= LONGEST_FUNCTION:
                functions.add(f"{module}:{node.name}")
    assert files <= set(LONGER_FILES)
    assert functions <= set(LONGER_FUNCTIONS)
