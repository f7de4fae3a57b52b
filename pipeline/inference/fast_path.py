"""Faster ways to run the encoders, on request: compiled, in 16 bits, in 8; first compared with 32 bits."""

from __future__ import annotations

import copy
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ...encoders import ImageEncoder
from ..data.rows import Columns
from ..model.model import DiptychModel
from .classifier import ImageTextClassifier
from .encoding import InferenceEncoders
from .options import Fast
from .predictions import Prediction

WARM_UP, SAMPLE, LEAST = 64, 256, 32
"""First rows of a table: to warm up, and to calibrate 8 bits by; then to compare by, at most and at least."""

_DTYPES: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


class FastEncoders(InferenceEncoders):
    """The encoders of a model on a fast path. The model is not changed, and must not be.

    Args:
        model: In 32 bits and in eval mode.
        pixels: Of images (at least 2, 3, height, width) by which 8 bits are calibrated; else not read.
    """

    def __init__(self, model: DiptychModel, fast: Fast, pixels: Tensor) -> None:
        super().__init__()
        self.follow(model)
        self._fast = fast
        # batch norms are folded everywhere: what a path changes in the last bit is compared anyway
        self._images, self._texts = copy.copy(model.image_encoder.folded()), copy.copy(model.text_encoder)
        encoders: list[Any] = [self._images, self._texts]
        for encoder in encoders:
            encoder._modules = dict(encoder._modules)  # the copy's own, or its trunk would become the model's
            if fast.dtype:
                encoder.trunk = copy.deepcopy(encoder.trunk).to(_DTYPES[fast.dtype])
        if fast.int8:
            self._images.trunk_grid = _Int8Grid(self._images, pixels)  # type: ignore[method-assign]
        if fast.compile:
            self._images.trunk = torch.compile(self._images.trunk)  # type: ignore[assignment]
            self._texts.trunk = torch.compile(self._texts.trunk, dynamic=True)  # words and rows of every batch differ

    def _take(self, model: DiptychModel, state: list[object] | None) -> None:
        if self.generation:
            raise ValueError(f"the weights have changed since {self._fast} was compared with 32 bits: compare it again")
        super()._take(model, state)


class _Grid(nn.Module):
    """What an image encoder's `trunk_grid` does, as a module: as such it can be exported, whatever its trunk gives."""

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> Tensor:
        """(batch, width, rows, columns), from (batch, 3, height, width) pixels."""
        return self.encoder.trunk_grid(pixels)


class _Int8Grid:
    """An image trunk as ONNX Runtime computes it, its weights and what runs between its layers in 8 bits.

    Activations without a sign and weights with one are what AVX-512 VNNI multiplies; each output channel of the
    weights has its own scale, each activation the range that it had over the calibration images.

    Args:
        encoder: Without batch norms; not changed.
    """

    def __init__(self, encoder: ImageEncoder, pixels: Tensor) -> None:
        import onnxruntime
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        with tempfile.TemporaryDirectory() as name:
            plain, prepared, quantized = (str(Path(name) / f"{step}.onnx") for step in ("plain", "prepared", "int8"))
            program: Any = torch.onnx.export(
                _Grid(encoder).eval(), (pixels[:2].contiguous(),), input_names=["pixels"], output_names=["features"],
                dynamic_shapes=({0: torch.export.Dim("batch")},), dynamo=True, verbose=False,
            )  # fmt: skip
            program.save(plain)
            quant_pre_process(plain, prepared)
            batches = ({"pixels": some.contiguous().numpy()} for some in pixels.split(32))
            calibration = SimpleNamespace(get_next=lambda: next(batches, None))
            quantize_static(
                prepared, quantized, calibration, quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                # without VNNI the sum of two products can be too large for its 16 bits
                reduce_range=not torch.cpu._is_vnni_supported(),
            )  # fmt: skip
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self.session = onnxruntime.InferenceSession(quantized, options, providers=["CPUExecutionProvider"])

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """Features (batch, width, rows, columns) of pixels (batch, 3, height, width)."""
        return torch.from_numpy(self.session.run(None, {"pixels": pixel_values.contiguous().numpy()})[0])


class _Recorded(InferenceEncoders):
    """Encoders that keep the pixels they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels: list[Tensor] = []

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        self.pixels.append(pixel_values)
        return super().encode_images(pixel_values)


def use_fast_path(
    classifier: ImageTextClassifier,
    fast: Fast,
    read: Callable[[], Iterable[Mapping[str, Any]]],
    columns: Columns | None = None,
    folder: Path | None = None,
    *,
    batch_size: int | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Put a classifier on a fast path, if the first rows of its table get the same labels by it.

    The first `WARM_UP` rows warm up, and calibrate 8 bits; by the `SAMPLE` rows after them both are compared, in
    labels, scores and time. Rows that stand in an order should be shuffled: the first must be like the others.

    Args:
        classifier: Its `encoders` are replaced.
        read: Gives the rows, from the first; it is called several times.
        columns: As for `ImageTextClassifier.stream`.
        folder: Likewise.
        batch_size: Likewise.
        say: What to do with the line that says how they compare.

    Raises:
        ValueError: The path cannot be had here, rows are too few, or too few labels agree. The classifier is as it was.
    """
    on_cpu = classifier.device.type == "cpu"
    if fast.dtype == "fp16" and on_cpu:
        raise ValueError("--dtype fp16 is for a GPU; on a CPU take --dtype bf16 or --int8")
    if fast.int8 and not on_cpu:
        raise ValueError("--int8 runs on a CPU, and there is a GPU here, which is faster: take --dtype bf16")
    needed = ("onnx", "onnxscript", "onnxruntime")
    if fast.int8 and not all(importlib.util.find_spec(name) for name in needed):
        raise ValueError("--int8 needs ONNX Runtime, which is not there: pip install 'diptych[onnx]'")

    def predictions(start: int, stop: int) -> Iterator[Prediction]:
        some = islice(read(), start, stop)
        return classifier.stream(some, columns=columns, folder=folder, batch_size=batch_size, prompt=False)

    def timed() -> tuple[list[Prediction], float]:
        clock = time.process_time if on_cpu else time.perf_counter
        start = clock()
        return list(predictions(WARM_UP, WARM_UP + SAMPLE)), clock() - start

    def usable(one: Prediction) -> bool:  # without an image, 8 bits of images change nothing
        return one["label"] is not None and not (fast.int8 and one["status"].startswith("image_"))

    before = classifier.encoders
    try:
        classifier.encoders = recorded = _Recorded()
        list(predictions(0, WARM_UP))
        classifier.encoders = InferenceEncoders()
        plain, plain_seconds = timed()
        judged = [number for number, one in enumerate(plain) if usable(one)]
        pixels = torch.cat(recorded.pixels) if recorded.pixels else torch.zeros(0)
        if len(judged) < LEAST or (fast.int8 and len(pixels) < 2):
            raise ValueError(
                f"{fast} is compared with 32 bits on rows {WARM_UP} to {WARM_UP + SAMPLE} of the data, of which "
                f"{len(judged)} can be used and {LEAST} are needed: leave it out"
            )
        try:
            classifier.encoders = FastEncoders(classifier.model, fast, pixels)
            list(predictions(0, WARM_UP))
            found, seconds = timed()
        except RuntimeError as error:  # of the compiler, whose message is long
            if not fast.compile or isinstance(error, torch.OutOfMemoryError):
                raise
            why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ValueError(f"--compile cannot be had here ({why}): leave it out, or see to a C++ compiler") from error
    except BaseException:
        classifier.encoders = before
        raise
    pairs = [(plain[number], found[number]) for number in judged]
    same = sum(one["label"] == other["label"] for one, other in pairs)
    furthest = max(_furthest(one["scores"], other["scores"]) for one, other in pairs)
    line = (
        f"{fast}: {same} of {len(pairs)} labels ({same / len(pairs):.1%}) are those of 32 bits, largest difference of "
        f"a score {furthest:.1g}, {plain_seconds / seconds:.1f} times its rows per {'CPU ' if on_cpu else ''}second"
    )
    if same < fast.min_agreement * len(pairs):
        classifier.encoders = before
        raise ValueError(f"{line}; {fast.min_agreement:.1%} must agree: leave it out, or give a lower --min-agreement")
    say(line)


def _furthest(scores: Any, others: Any) -> float:
    return max(abs(score - others[name]) for name, score in scores.items())
