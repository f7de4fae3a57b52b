"""Help in panels, and options made from the fields of dataclasses."""

from __future__ import annotations

import importlib
import io
import re
import subprocess
import sys
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

import diptych as package
import pytest
import typer
from diptych.pipeline.cli.command import command
from diptych.pipeline.cli.main import COMMANDS, app
from diptych.pipeline.cli.terminal import PanelCommand, Show, coloured
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

SHARED = """
--alignment-weight --batch-size --cache --cache-dir --calibration --checkpoint-minutes --checkpoint-steps
--class-weights
--colour --crop --dropout --encoder-learning-rate --epochs --flip --focal-gamma --fusion-heads
--fusion-hidden-size --fusion-layers --gradient-accumulation-steps --hidden-size
--image-encoder --image-fit --image-size --image-weights --keep --label-smoothing --layer-decay
--learning-rate --max-grad-norm --max-length --modality-dropout --modality-gate --model --objective --out
--patience --pattern --precision --processes --region-grid --resume --seed --select --shuffle-buffer
--skip-nonfinite --stream --text-encoder --tracker --unfreeze-at --unfreeze-image
--unfreeze-text --validation-share --warmup-ratio --weight-decay --window --workers
"""
"""Options of train and of tune."""

READING = (
    " --config --image-column --image-folder --image-only --image-suffix --revision --text-column --text-only "
    "--label-column "
)
"""Options of all that read data; to classify needs no label."""

OPTIONS = {
    "demo": "--out",
    "classify": (
        "--batch-size --compile --contributions --coverage --data --dtype --int8 --min-agreement --model --on-bad-row "
        "--out --overwrite --part-rows --precision --processes --resume --set-score --sets --split --text --workers "
        + READING.replace("--label-column", "")
    ),
    "train": "--overwrite --fusion --recipe " + SHARED + READING,
    "evaluate": "--batch-size --by-class --emap-exact --missing --missing-seed --missing-type --out --split" + READING,
    "check": "--max-length --out --overwrite --split --text-encoder" + READING,
    "rank": "--batch-size --data --image --images --split --text --texts --top " + READING,
    "tune": "--fusions --trials " + SHARED + READING,
    "explain": (
        "--against --data --faithfulness --method --out --overwrite --rows --split"
        + READING.replace("--label-column", "")
    ),
    "info": "--cache --cache-dir --clear",
}
"""What each command takes besides --json, --quiet and --debug: a new option is a decision."""


@pytest.fixture
def shown(monkeypatch, capsys):
    """What a terminal of some width shows; the runner of the tests would force 80 columns."""

    def show(*arguments, width=80):
        monkeypatch.setenv("COLUMNS", str(width))
        app(list(arguments), prog_name="diptych", standalone_mode=False)
        return capsys.readouterr().out

    return show


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_takes_these_options_and_no_others(name):
    params = typer.main.get_command(app).get_command(None, name).params
    shown = {param.opts[0] for param in params if param.param_type_name == "option" and not param.hidden}
    assert shown == {*OPTIONS[name].split(), "--json", "--quiet", "--debug"}
    assert all(param.help for param in params if not param.hidden)


@pytest.mark.parametrize(("old", "new"), [("accumulate", "gradient_accumulation_steps"), ("clip", "max_grad_norm")])
def test_an_old_name_is_read_with_a_remark(old, new, monkeypatch):
    given = {}
    module = importlib.import_module("diptych.pipeline.training.train")
    monkeypatch.setattr(module, "train", lambda data, out, **options: given.update(options))
    result = CliRunner().invoke(app, ["train", "x", "--out", "y", f"--{old}", "2"])
    assert given[new] == 2
    assert result.stderr.startswith(f"{old} is called {new.replace('_', '-')} now")
    assert f"--{old} " not in CliRunner().invoke(app, ["train", "--help"]).output


def test_an_option_of_training_that_is_not_allowed_is_said_before_torch_is_loaded():
    code = "import sys; from diptych.pipeline.cli.main import app\ntry: app()\nfinally: print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, "train", "x", "--out", "y", "--epochs", "0"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (1, "False\n")
    assert ran.stderr == "diptych: epochs is 0; it must be at least 1\n"


def test_the_version_is_printed(shown):
    assert shown("--version") == f"diptych {package.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("width", [80, 120, 200])
def test_help_is_as_wide_as_the_terminal_and_in_panels(name, width, shown):
    lines = shown(name, "--help", width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert lines.index("Output:") < lines.index("  --json" + next(line for line in lines if "--json" in line)[8:])
    titles = [line for line in lines if re.fullmatch(r"[A-Z].*:", line)]
    assert titles[-1] == "Output:"
    assert len(titles) == len(set(titles))


def test_a_wide_terminal_needs_fewer_lines(shown):
    assert max(map(len, shown("train", "--help", width=160).splitlines())) > 110
    assert len(shown("train", "--help", width=160).splitlines()) < len(shown("train", "--help").splitlines())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_of_each_what_its_own_help_says(name, shown):
    summary = typer.main.get_command(app).get_command(None, name).help.partition("\n")[0]
    assert COMMANDS[name] == summary
    assert f"  {name:<9} {summary}\n" in shown("--help")


def test_a_command_that_is_not_asked_for_is_not_imported():
    code = "import sys; from diptych.pipeline.cli.main import app\ntry: app()\nfinally: print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code, "info", "--help"], capture_output=True, text=True, check=True)
    loaded = {name.rpartition(".")[2] for name in ran.stdout.split() if name.startswith("diptych.pipeline.cli.")}
    assert loaded & {*COMMANDS} == {"info"}


def test_the_list_of_commands_fits_80_columns_whole(shown):
    assert "..." not in shown("--help").partition("Commands:")[2]


@pytest.mark.parametrize(("arguments", "meant"), [(["trian"], "'train'"), (["train", "x", "--epoch", "3"], "--epochs")])
def test_a_word_that_is_mistyped_is_answered_with_the_one_meant(arguments, meant):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert meant in result.stderr


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_colour_is_for_terminals_without_no_color(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert coloured("a", Terminal(), bold=True) == "\x1b[1ma\x1b[0m"
    assert coloured("a", io.StringIO(), bold=True) == "a"
    monkeypatch.setenv("NO_COLOR", "1")
    assert coloured("a", Terminal(), bold=True) == "a"


def spec(default, help_text="Text.", panel="Panel", **metadata):
    return field(default=default, metadata={"help": help_text, "panel": panel, **metadata})


@dataclass(frozen=True)
class Config:
    epochs: int = spec(5)
    rate: float | None = spec(None, "Rate.  [default: found]")
    kind: str = spec("a", choices=("a", "b-c"))
    parts: int | None = spec(0, none="all")
    image_size: tuple[int, int] | None = spec(None)
    cache: bool = spec(True)
    flip: bool | None = spec(None)
    stream: bool = spec(False)
    name: str = spec("x")
    inner: int = field(default=1)


def run(*arguments, **options):
    got = []

    @command(Config, **options)
    def fill(show: Show, data: Annotated[str, typer.Argument()], **options: Any) -> None:
        got.append((data, show, options))

    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.command(cls=PanelCommand)(fill)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "80"})
    return result, got


def test_only_what_is_given_is_passed_on():
    result, got = run("d")
    assert result.exit_code == 0, result.output
    assert got == [("d", Show(False, False), {})]


def test_every_kind_of_field_is_read():
    words = "d --epochs 3 --rate 0.5 --kind b-c --parts all --image-size 80x60 --no-cache --no-flip --stream --name y"
    result, [(_, show, options)] = run(*words.split(), "--json")
    assert result.exit_code == 0
    assert show == Show(True, True)
    assert options == {
        "epochs": 3,
        "rate": 0.5,
        "kind": "b-c",
        "parts": None,
        "image_size": (80, 60),
        "cache": False,
        "flip": False,
        "stream": True,
        "name": "y",
    }
    assert type(options["kind"]) is str
    assert Config(**options)


@given(st.integers(0, 99), st.integers(1, 999), st.integers(1, 999))
def test_numbers_of_parts_and_sizes_are_read(parts, height, width):
    assert run("d", "--parts", parts, "--image-size", f"{height}X{width}")[1][0][2] == {
        "parts": parts,
        "image_size": (height, width),
    }
    assert run("d", "--image-size", height)[1][0][2] == {"image_size": (height, height)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parts", "some"], "diptych: --parts is 'some'; give a number, or all"),
        (["--parts", "-1"], "diptych: --parts is '-1'; give a number, or all"),
        (["--image-size", "big"], "diptych: --image-size is 'big'; give HEIGHTxWIDTH in pixels"),
        (["--image-size", "3x"], "3"),
        (["--kind", "d"], "'d' is not one of 'a', 'b-c'"),
        (["--inner", "1"], "No such option: --inner"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(words, message):
    result, got = run("d", *words)
    if message == "3":  # one number with an x behind it is a square, too
        assert got[0][2] == {"image_size": (3, 3)}
        return
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not got


def test_help_shows_the_defaults_of_the_dataclass_or_those_of_the_command():
    help_text = run("--help")[0].output
    for name, default in {"epochs": "5", "rate": "found", "kind": "a", "parts": "0", "cache": "yes"}.items():
        assert re.search(rf"--{name}\b.*Text\.|Rate\.  \[default: {default}\]", help_text)
    assert "[default: 5]" in help_text
    other = run("--help", defaults={"epochs": "searched", "rate": "searched"}, without=["name"])[0].output
    assert other.count("[default: searched]") == 2
    assert "found" not in other
    assert "--name" not in other
    assert [f.name for f in fields(Config) if f"--{f.name.replace('_', '-')}" not in help_text] == ["inner"]
