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


def imports(path: Path) -> set[str]:
    """Modules that a file imports, ours by their path from the root: `encoders.tokens`."""
    here = path.relative_to(ROOT).with_suffix("").parts
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = list(here[: len(here) - node.level]) if node.level else []
            module = ".".join(
                ["diptych", *base, *(node.module or "").split(".")] if node.level else [node.module or ""]
            )
            names = [module] if node.module else [f"{module}{alias.name}" for alias in node.names]
            found |= set(names)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    ours = {module for module in imports(path) if module.split(".")[0] == "diptych"}
    allowed = {
        "encoders": ("diptych.encoders",),
        "fusion": ("diptych.fusion", "diptych.encoders.tokens"),
        "pipeline": ("diptych.pipeline", "diptych.fusion", "diptych.encoders", "diptych"),
    }[path.parent.name]
    wrong = {m for m in ours if not any(m == a or (a != "diptych" and m.startswith(a + ".")) for a in allowed)}
    assert not {m for m in wrong if m.strip(".") not in ("diptych.__version__", "diptych")}


@pytest.mark.parametrize("path", sorted(ROOT.glob("[!.]*/**/*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_imports_our_folders_by_their_bare_names(path):
    assert not {module for module in imports(path) if module.split(".")[0] in ROOMS}


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
    code = "import sys, diptych, diptych.pipeline.cli.main; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_root_has_no_other_python_files():
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_versions_agree():
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert diptych.__version__ == version
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


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


def test_every_file_is_listed_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    missing = [
        path.name for path in SOURCES if path.name != "__init__.py" and not re.search(rf"\b{path.name}\b", readme)
    ]
    assert not missing
