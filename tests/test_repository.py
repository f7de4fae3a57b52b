"""What holds for the repository as a whole: who imports whom, what is public, what a wheel contains."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import diptych
import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("encoders", "fusion", "pipeline")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


ALLOWED: dict[str, set[str]] = {
    "encoders": set(),
    "fusion": {"encoders"},
    "runtime": set(),
    "data": {"runtime"},
    "model": {"runtime", "data", "encoders", "fusion"},
    "check": {"runtime", "data", "model"},
    "feature_cache": {"runtime", "data", "model", "encoders"},
    "inference": {"runtime", "data", "model", "encoders", "explain"},
    "loading": {"runtime", "data", "model", "feature_cache", "encoders"},
    "evaluation": {"runtime", "data", "model", "loading", "encoders"},
    "batch_inference": {"runtime", "data", "model", "inference"},
    "training": {"runtime", "data", "model", "check", "feature_cache", "loading", "evaluation", "encoders"},
    "tuning": {"runtime", "data", "model", "loading", "training", "encoders"},
    "explain": {"runtime", "data", "model", "encoders", "fusion"},
    "demo": {"runtime", "evaluation", "inference", "training"},
    "cli": {
        *("runtime", "data", "model", "check", "feature_cache", "inference", "evaluation", "batch_inference"),
        *("training", "tuning", "explain", "demo"),
    },
}
"""Whom the files of a room may import, lazily or for types too, beside their own room."""


def imports(path: Path) -> set[str]:
    """Modules that a file imports anywhere in it, ours by their path from the root: `diptych.encoders.tokens`."""
    here = ("diptych", *path.relative_to(ROOT).with_suffix("").parts)
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*here[: len(here) - node.level], node.module or ""] if node.level else [node.module or ""])
            base = base.strip(".")
            # `from . import x` names a module, `from .x import y` most often something in it
            modules |= {f"{base}.{alias.name}" if _is_ours(f"{base}.{alias.name}") else base for alias in node.names}
    return modules


def _is_ours(module: str) -> bool:
    return module.startswith("diptych.") and (ROOT / module[8:].replace(".", "/")).with_suffix(".py").is_file()


def room_of(module: str) -> str:
    """`encoders`, `fusion`, or the sub-package of `pipeline`; an empty text for the root."""
    parts = module.split(".")[1:]
    return (parts[1] if len(parts) > 1 else "") if parts[:1] == ["pipeline"] else (parts[0] if parts else "")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    ours = {module for module in imports(path) if module.split(".")[0] == "diptych"}
    own = room_of(".".join(["diptych", *path.relative_to(ROOT).with_suffix("").parts]))
    if own in ("", "__init__"):  # of pipeline/, a docstring
        assert not ours
        return
    assert {room_of(module) for module in ours} <= ALLOWED[own] | {own}
    if own == "fusion":  # the contract between the two, and nothing else
        contract = {"diptych.encoders.tokens", "diptych.encoders.draws"}
        assert {m for m in ours if room_of(m) == "encoders"} <= contract


def test_no_room_is_left_out_and_no_rooms_form_a_circle():
    rooms = {path.parent.name for path in SOURCES} - {"pipeline"}
    assert rooms == set(ALLOWED)
    open_rooms = dict(ALLOWED)
    while open_rooms:
        free = [room for room, others in open_rooms.items() if not others & set(open_rooms)]
        assert free, f"a circle among {sorted(open_rooms)}"
        for room in free:
            del open_rooms[room]


def test_no_files_form_a_circle():
    graph = {}
    for path in SOURCES:
        name = ".".join(["diptych", *path.relative_to(ROOT).with_suffix("").parts])
        graph[name] = {module for module in imports(path) if _is_ours(module)} - {name}
    while graph:
        free = [name for name, others in graph.items() if not others & set(graph)]
        assert free, f"a circle among {sorted(graph)}"
        for name in free:
            del graph[name]


@pytest.mark.parametrize("path", sorted((ROOT / "pipeline").rglob("__init__.py")), ids=lambda path: path.parent.name)
def test_an_init_file_is_a_docstring_and_nothing_else(path):
    (only,) = ast.parse(path.read_text()).body
    assert isinstance(only, ast.Expr)


@pytest.mark.parametrize("path", sorted(ROOT.glob("[!.]*/**/*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_imports_our_folders_by_their_bare_names(path):
    assert not {module for module in imports(path) if module.split(".")[0] in ("encoders", "fusion", "pipeline")}


def test_the_walk_over_imports_sees_what_it_should(tmp_path):
    assert "diptych.encoders.tokens" in imports(ROOT / "fusion" / "gate.py")
    assert "torch" in imports(ROOT / "fusion" / "gate.py")
    assert "diptych.pipeline.cli.main" in imports(ROOT / "__main__.py")


def test_public_names_are_all_there_and_nothing_else_is_listed():
    for name in diptych.__all__:
        assert getattr(diptych, name) is not None
    assert sorted(diptych.__all__) == dir(diptych)
    typed = re.findall(r"import (\w+) as \1", (ROOT / "__init__.py").read_text())
    assert sorted(typed) == sorted(set(diptych.__all__) - {"__version__"})
    with pytest.raises(AttributeError, match="module 'diptych' has no attribute 'nothing'"):
        _ = diptych.nothing


def test_importing_loads_no_torch():
    code = (
        "import sys, diptych, diptych.pipeline.cli.main;"
        "print([name for name in ('torch', 'transformers', 'datasets', 'pandas', 'numpy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_root_has_no_other_python_files():
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_versions_agree():
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert diptych.__version__ == version
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
    for name in ("README.md", "examples/README.md"):  # the version beside a table of figures
        named = re.findall(r"Diptych (\d+\.\d+)", (ROOT / name).read_text())
        assert named or name != "README.md"
        assert {f"{found}." for found in named} <= {version[: version.rindex(".") + 1]}


def test_a_wheel_holds_the_package_and_nothing_else(tmp_path):
    copy = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode or not tracked.stdout:
        pytest.skip("not a git checkout: the list of files that belong to it is not known")
    for name in tracked.stdout.split():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    build = "from setuptools.build_meta import build_wheel; build_wheel('../wheel')"
    (tmp_path / "wheel").mkdir()
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True)
    with zipfile.ZipFile(next((tmp_path / "wheel").glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {f"diptych/{path.relative_to(ROOT)}" for path in SOURCES}
    expected |= {"diptych/__init__.py", "diptych/__main__.py", "diptych/py.typed"}
    expected |= {f"diptych/{p.relative_to(ROOT)}" for p in (ROOT / "pipeline" / "demo" / "scenes_model").glob("*")}
    assert names == {name for name in expected if name.removeprefix("diptych/") in tracked.stdout.split()}


@pytest.mark.parametrize("path", sorted(ROOT.glob("[!.]*/**/*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_at_most_400_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def long_signatures(code: str) -> list[str]:
    """Functions with more than 10 named parameters, `self` apart; command functions and `forward` are exempt."""
    names = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef) and node.name != "forward":
            is_command = any("command" in ast.unparse(decorator) for decorator in node.decorator_list)
            named = {arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
            if len(named - {"self", "cls"}) > 10 and not is_command:
                names.append(node.name)
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_function_has_at_most_10_parameters(path):
    assert not long_signatures(path.read_text(encoding="utf-8"))


def test_the_count_of_parameters_sees_what_it_should():
    ten = ", ".join("abcdefghij")
    assert long_signatures(f"def f({ten}, *, k): ...") == ["f"]
    assert long_signatures(f"class A:\n def f(self, {ten}, **others): ...") == []
    assert long_signatures(f"@command()\ndef f({ten}, k): ...") == []


def test_every_file_is_listed_in_the_tree():
    tree = (ROOT / "CONTRIBUTING.md").read_text()
    folder, found = "", set()
    for name in re.findall(r"^    (\S+/|  \S+\.py)(?:\s|$)", tree, re.MULTILINE):
        folder = name if name.endswith("/") else folder
        found |= {folder + name.strip()} if name.endswith(".py") else set()
    assert found == {str(path.relative_to(ROOT)) for path in SOURCES if path.name != "__init__.py"}
