"""`import diptych` is enough for transformers, in a fresh process, in any order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from diptych.pipeline.model.folder import save_model

ORDERS = {
    "diptych first": "import diptych; import transformers",
    "transformers first": "import transformers; import diptych",
    "Auto classes before": "from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline; import diptych",
    "a tokenizer before": "import transformers; transformers.AutoTokenizer; import diptych",
    "an encoder before": "from diptych import BertEncoder; import transformers",
    "the processor before": "import diptych.pipeline.model.processor; import transformers",
}
USES = {
    "AutoConfig": "transformers.AutoConfig.from_pretrained({0!r})",
    "AutoModel": "transformers.AutoModel.from_pretrained({0!r})",
    "AutoProcessor": "transformers.AutoProcessor.from_pretrained({0!r})",
    "AutoImageProcessor": "transformers.AutoImageProcessor.from_pretrained({0!r})",
    "pipeline": "transformers.pipeline('image-text-classification', model={0!r}, device='cpu')",
}
CLASSES = {
    "AutoConfig": "DiptychConfig",
    "AutoModel": "DiptychModel",
    "AutoProcessor": "DiptychProcessor",
    "AutoImageProcessor": "DiptychImageProcessor",
    "pipeline": "ImageTextClassificationPipeline",
}


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert not result.returncode, result.stderr[-2000:]
    return result.stdout.strip()


def uses(order: str, use: str, folder: Path) -> None:
    made = USES[use].format(str(folder))
    assert run(f"{ORDERS[order]}; import transformers; print(type({made}).__name__)").splitlines()[-1] == CLASSES[use]


@pytest.fixture
def folder(tiny, tmp_path) -> Path:
    save_model(*tiny, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("order", "use"),
    [("diptych first", "AutoModel"), ("Auto classes before", "AutoProcessor")],
)
def test_a_fresh_process_finds_ours(folder, order, use):
    uses(order, use, folder)


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_after_any_order_of_imports_every_first_use_finds_ours(folder, order):
    code = f"""
{ORDERS[order]}
import os, sys, transformers
for use in {[use.format(str(folder)) for use in USES.values()]!r}:
    if not os.fork():
        print(type(eval(use)).__name__, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, use
"""
    assert run(code).splitlines() == list(CLASSES.values())


@pytest.mark.parametrize(
    "order",
    ["import diptych, transformers", pytest.param("import transformers, diptych", marks=pytest.mark.slow)],
)
def test_nothing_heavy_is_loaded_until_it_is_asked_for(order):
    assert run(f"{order}; import sys; print('torch' in sys.modules)") == "False"
    code = f"{order}; import sys; transformers.AutoTokenizer; transformers.AutoModel; transformers.AutoProcessor"
    assert run(f"{code}; print('diptych.pipeline.model.config' in sys.modules)") == "False"


@pytest.mark.slow
def test_other_models_are_found_as_before(text_folder):
    code = "import diptych, transformers"
    code += f"; print(*(type(auto.from_pretrained({text_folder!r})).__name__ for auto in (transformers.AutoConfig,"
    code += " transformers.AutoModel, transformers.AutoTokenizer)))"
    assert run(code) == "BertConfig BertModel BertTokenizer"
