"""The architecture, held by a test: each room imports only rooms that stand before it, and no modules form a circle."""

import ast
import graphlib
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# design: a room may import what stands before it in this list
ORDER = (
    *("seeding", "store", "data", "training", "methods"),
    *("exact", "approximate", "dlfd", "private", "attribution", "generative", "language", "federated", "prevention"),
    *("audit", "studies", "desk", "publishing"),
)
# the same inside the room of audits
AUDIT = ("statistics", "attacks", "distances", "evidence", "known_answers", "verdicts", "batteries")
NAMED = re.compile(r"unlearnlib(?:\.\w+)+")


def sources(root: Path) -> dict[str, Path]:
    """Module name -> file, packages' lists of names and the machinery behind them left out."""
    found = {}
    for path in sorted((root / "unlearnlib").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[-1] != "__init__" and not parts[1].startswith("_"):
            found[".".join(parts)] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> dict[str, int]:
    """Library modules that a file names in any import, lazy ones too, and where.

    `import a.b`, `from a import b`, and any text that is a module's full name (`import_module("unlearnlib.a.b")`,
    "unlearnlib.a.b" in a table) count.
    """
    found: dict[str, int] = {}

    def add(name: str, line: int, kind: str) -> None:
        if name in known:
            found.setdefault(name, line)
        elif kind == "import" and not name.startswith("unlearnlib._"):
            raise AssertionError(f"{path}:{line} imports {name} through a list of names: import its module")

    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively: name the module in full"
            if (node.module or "").partition(".")[0] == "unlearnlib":
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    whole = inner in known or node.module == "unlearnlib"
                    add(inner if whole else node.module, node.lineno, "import")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "unlearnlib":
                    add(alias.name, node.lineno, "import")
    catalogue = path.parts[-2:] == ("methods", "catalogue.py")  # names of homes, not imports of them
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__", "find_spec"):
            for constant in ast.walk(node):
                if isinstance(constant, ast.Constant) and isinstance(constant.value, str) and not catalogue:
                    for name in NAMED.findall(constant.value):
                        add(name, node.lineno, "text")
    return found


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def arrows(root: Path) -> dict[str, dict[str, int]]:
    known = sources(root)
    return {name: imported(path, known) for name, path in known.items()}


def wrong(graph: dict[str, dict[str, int]]) -> list[str]:
    """Every arrow that points upward, naming both files."""
    found = []
    for source, targets in graph.items():
        for target, line in targets.items():
            above = _place(source, 1, ORDER), _place(target, 1, ORDER)
            if source.split(".")[1] == target.split(".")[1] == "audit":
                above = _place(source, 2, AUDIT), _place(target, 2, AUDIT)
            if above[0] < above[1]:
                found.append(f"{_file(source)}:{line} imports {_file(target)}, which stands after it")
    return found


def _place(module: str, depth: int, order: tuple[str, ...]) -> int:
    room = module.split(".")[depth]
    assert room in order, f"{_file(module)} is in no room: {', '.join(order)}"
    return order.index(room)


def _file(module: str) -> str:
    return module.replace(".", "/") + ".py"


def circle(graph: dict[str, dict[str, int]]) -> list[str]:
    """The files of one circle of imports, empty if there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [_file(name) for name in error.args[1]]
    return []


def test_every_arrow_points_to_a_room_that_stands_before():
    graph = arrows(ROOT)
    assert len(graph) > 80 and sum(map(len, graph.values())) > 200  # it has seen the library
    assert wrong(graph) == []
    assert circle(graph) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("from unlearnlib.studies.runs import run", "unlearnlib/training/bad.py:2 imports unlearnlib/studies/runs.py"),
        ("def f():\n    from unlearnlib.audit.statistics import roc", "unlearnlib/audit/statistics/roc.py"),
        ("import importlib\nm = importlib.import_module('unlearnlib.publishing.pages')", "unlearnlib/publishing/pages"),
        ("import unlearnlib.private.dpsgd", "unlearnlib/private/dpsgd.py, which stands after it"),
    ],
)
def test_an_arrow_upward_is_caught(tmp_path, line, said):
    _library(tmp_path, {"training/bad.py": f'"""A defect."""\n{line}\n'})
    assert any(said in text for text in wrong(arrows(tmp_path)))


def test_a_circle_is_caught(tmp_path):
    _library(
        tmp_path,
        {
            "store/one.py": "from unlearnlib.store import two\n",
            "store/two.py": "def f():\n    from unlearnlib.store.one import g\n",
        },
    )
    assert wrong(arrows(tmp_path)) == []
    assert {"unlearnlib/store/one.py", "unlearnlib/store/two.py"} <= set(circle(arrows(tmp_path)))


@pytest.mark.parametrize("line", ["from unlearnlib import data", "from unlearnlib.data import Examples"])
def test_a_name_from_a_list_is_refused(tmp_path, line):
    _library(tmp_path, {"training/bad.py": f"{line}\n"})
    with pytest.raises(AssertionError, match="through a list of names|imports unlearnlib"):
        arrows(tmp_path)


def _library(root: Path, files: dict[str, str]) -> None:
    rooms = {"data/examples.py": "", "studies/runs.py": "", "audit/statistics/roc.py": "", "publishing/pages.py": ""}
    for name, text in {**rooms, "private/dpsgd.py": "", **files}.items():
        path = root / "unlearnlib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_bare_import_is_light():
    code = "import sys, unlearnlib; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split() == ["False", "False"]


def test_no_function_has_the_name_of_a_module_beside_it():
    """Importing the module would put it where callers expect the function."""
    for room in ORDER:
        package = importlib.import_module(f"unlearnlib.{room}")
        modules = {found.name for found in pkgutil.iter_modules(getattr(package, "__path__", []))}
        shared = modules & set(getattr(package, "__all__", ()))
        assert all(inspect.ismodule(getattr(package, name)) for name in shared), f"{room}: {sorted(shared)}"


def test_the_rooms_are_described_to_contributors():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = {path.parent.name for path in (ROOT / "unlearnlib").glob("*/__init__.py")}
    assert rooms and all(f"`{room}/`" in text for room in rooms)
