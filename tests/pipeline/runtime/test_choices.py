"""Choices stand once, where nothing heavy is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest
from diptych.fusion import PATTERNS
from diptych.pipeline.runtime import choices


def test_the_patterns_are_those_of_the_fusion():
    assert choices.PATTERNS == PATTERNS


def test_a_choice_that_is_none_is_named_with_all_that_are():
    choices.require_choice("on_bad_row", "skip", choices.ON_BAD_ROW)
    with pytest.raises(ValueError, match=r"^on_bad_row is 'drop'; choose one of mask, skip, error$"):
        choices.require_choice("on_bad_row", "drop", choices.ON_BAD_ROW)


@pytest.mark.parametrize("module", ["runtime.choices", "inference.options"])
def test_choices_and_options_load_no_torch(module):
    code = f"import sys, diptych.pipeline.{module}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
