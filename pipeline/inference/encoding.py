"""How the encoders run where nothing is learned: faster than in training, with the same features."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor, nn

from ...encoders import BertEncoder, ImageEncoder
from ..model.model import DiptychModel
from ..runtime.locks import fork_safe_lock

_FOLLOWING = fork_safe_lock()


class InferenceEncoders:
    """The two encoders of a model as they run for classifying.

    In 32 bits on a CPU the image trunk is a copy, its batch norms folded into its convolutions; elsewhere, and in
    training mode, it is the model's own. The model is never
    changed, and the copy follows it: `follow` comes before every batch. Whatever else encodes faster
    (another number format, another runtime: `fast.FastEncoders`) stands behind the same methods.

    Attributes:
        generation: Another number whenever features may be others than before for the same input.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._state: list[object] | None = None
        self._first: list[Tensor] = []
        self._seen: list[float] = []
        self._images: ImageEncoder
        self._texts: BertEncoder

    def follow(self, model: DiptychModel) -> None:
        """Take the model as it is now: if anything in its encoders has changed, features are new."""
        with _FOLLOWING:  # requests come from any thread, the first ones too
            state = _state(model)
            if state is None or state != self._state or self._samples() != self._seen:
                self._take(model, state)
                self.generation += 1

    def _take(self, model: DiptychModel, state: list[object] | None) -> None:
        self._state = state
        self._first = [] if state is None else _first_numbers(model)
        self._seen = self._samples()
        trunk = model.image_encoder.trunk
        suits = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in trunk.parameters())
        self._images = model.image_encoder.folded() if suits and state is not None else model.image_encoder
        self._texts = model.text_encoder

    def _samples(self) -> list[float]:
        """Some of the weights: what writes through `.data`, as some moving averages do, counts no version."""
        return torch.stack(self._first).tolist() if self._first else []

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Features of the regions, (batch, width, rows, columns), of normalised pixels (batch, 3, height, width)."""
        return self._images.encode(pixel_values.contiguous(memory_format=torch.channels_last))

    def encode_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Features of the words, (batch, words, width), of ids (batch, words) and their mask; of one, if pooled."""
        return self._texts.encode(input_ids, attention_mask)


class RecentFeatures:
    """Features of a table's rows, by what they are of, so that a repeated image or text is encoded once.

    They stay in the batches in which they were computed: nothing is copied for it.

    Args:
        limit: Bytes; the batch that was used longest ago goes first.
    """

    def __init__(self, limit: int = 128 << 20) -> None:
        self.limit, self.size = limit, 0
        self._batches: OrderedDict[int, tuple[Tensor, list[Hashable]]] = OrderedDict()
        self._places: dict[Hashable, tuple[int, int]] = {}
        self._lock = threading.Lock()  # threads that prepare rows ask as well

    def get(self, key: Hashable) -> Tensor | None:
        """One row's features, as they are in their batch, or None if they are not known."""
        with self._lock:
            if key not in self._places:
                return None
            batch, index = self._places[key]
            self._batches.move_to_end(batch)
            return self._batches[batch][0][index]

    def put(self, keys: Sequence[Hashable], features: Tensor) -> None:
        """Keep `features` (batch, ...), the rows of which are known by `keys`, none of them kept yet."""
        with self._lock:
            self._batches[id(features)] = (features, list(keys))
            self._places |= {key: (id(features), index) for index, key in enumerate(keys)}
            self.size += features.nbytes
            while self.size > self.limit:
                _, (gone, known) = self._batches.popitem(last=False)
                self.size -= gone.nbytes
                for key in known:
                    del self._places[key]

    def encode_once(
        self, keys: Sequence[Hashable], known: Sequence[Tensor | None], encode: Callable[[list[int]], Tensor]
    ) -> Tensor | list[Tensor]:
        """Features of rows, one batch of them if all are new, else one after another.

        Args:
            keys: What each row is known by.
            known: Features that were found before, and have perhaps gone since.
            encode: Gives the features (rows, ...) of the rows with these indices.
        """
        by_key = {key: features for key, features in zip(keys, known, strict=True) if features is not None}
        new: dict[Hashable, int] = {}
        for index, key in enumerate(keys):
            if key in by_key or key in new:
                continue
            features = self.get(key)
            if features is None:
                new[key] = index
            else:
                by_key[key] = features
        if new:
            batch = encode(list(new.values()))
            self.put(list(new), batch)
            if len(new) == len(keys):
                return batch
            by_key |= dict(zip(new, batch, strict=True))
        return [by_key[key] for key in keys]


def _state(model: DiptychModel) -> list[object] | None:
    """What tells the weights of both trunks from those before, without reading them all; None if nothing can."""
    state: list[object] = []
    modules: list[nn.Module | None] = [model.image_encoder.trunk, model.text_encoder.trunk]
    for module in modules:  # grows: `modules()` takes several times as long
        if module is None:
            continue
        if module.training:  # features hang on chance, or on the whole batch
            return None
        state.append(id(module))
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is None:
                continue
            if tensor.is_inference():  # it counts no versions
                return None
            state += (tensor.data_ptr(), tensor._version)
        modules += module._modules.values()
    return state


def _first_numbers(model: DiptychModel) -> list[Tensor]:
    """Views of the first number of each vector among the weights: of every norm and bias."""
    trunks = (model.image_encoder.trunk, model.text_encoder.trunk)
    tensors = [tensor for trunk in trunks for tensor in (*trunk.parameters(), *trunk.buffers())]
    return [tensor.detach()[0] for tensor in tensors if tensor.ndim == 1 and tensor.is_floating_point()]
