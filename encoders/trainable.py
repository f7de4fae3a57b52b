"""What trains: one ordered partition of the parameters, for freezing and for learning rates.

A *part* is a name and the modules it holds. A trunk lists its parts from the input up, so "train
the top two" means the last two of the list, and a learning rate that shrinks towards the input
(Howard and Ruder, ULMFiT, 2018) multiplies along the same list.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Part = tuple[str, Sequence[nn.Module]]


class EncoderNotFound(ValueError):
    """A pretrained encoder is neither on this machine nor within reach."""


class Encoder(nn.Module):
    """A pretrained trunk, of which the top parts train, and a projection, which always trains.

    Frozen parts run as in eval whatever `train()` is told. So do the batch norms of a pretrained trunk, frozen or
    not: their statistics are those of many more images than a batch has.

    Args:
        trunk: The network that encodes.
        pretrained: Whether its weights were learned; only then may it be frozen.
    """

    def __init__(self, trunk: nn.Module, *, pretrained: bool) -> None:
        super().__init__()
        self.trunk = trunk
        self.pretrained = pretrained
        self._frozen: list[nn.Module] = []

    def parts(self) -> list[Part]:
        """The trunk's parts, from the input up; together they hold each of its parameters once."""
        raise NotImplementedError

    @property
    def frozen(self) -> bool:
        """True if no part of the trunk trains: what it puts out can be computed once and kept."""
        return len(self._frozen) == len([m for _, modules in self.parts() for m in modules])

    def unfreeze(self, count: int | None = None) -> None:
        """Train the top `count` parts of the trunk and freeze the others; None trains all.

        Raises:
            ValueError: `count` is negative or larger than the number of parts, or it would freeze
                weights that nobody trained.
        """
        parts = self.parts()
        count = len(parts) if count is None else count
        if not 0 <= count <= len(parts):
            names = ", ".join(name for name, _ in parts)
            raise ValueError(f"unfreeze is {count}; this trunk has {len(parts)} parts, from the input up: {names}")
        if count < len(parts) and not self.pretrained:
            raise ValueError(
                f"unfreeze is {count}, but the weights of this {type(self).__name__} are random: frozen, they would "
                "never learn anything. Train all of it (unfreeze 'all'), or start from pretrained weights"
            )
        frozen = len(parts) - count
        self._frozen = [module for _, modules in parts[:frozen] for module in modules]
        for index, (_, modules) in enumerate(parts):
            for module in modules:
                module.requires_grad_(index >= frozen)
        self.train(self.training)

    def copy_trunk(self, other: Encoder) -> None:
        """Take the trunk's weights from `other`, an encoder of the same architecture; frozen if they were learned.

        Raises:
            ValueError: It is of another one.
        """
        try:
            self.trunk.load_state_dict(other.trunk.state_dict())
        except RuntimeError as error:
            raise ValueError("the trunk to copy is of another architecture") from error
        self.pretrained = other.pretrained
        if self.pretrained:
            self.unfreeze(0)

    def train(self, mode: bool = True) -> Encoder:
        """Set the training mode of all but the frozen parts, which stay in eval."""
        super().train(mode)
        if self._frozen:
            self.trunk.eval()  # all of it, also a dropout that stands between the parts
            for module in (m for _, modules in self.parts() for m in modules if m not in self._frozen):
                module.train(mode)
        if self.pretrained:
            for module in self.trunk.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Have a module compute as in evaluation, whatever mode its parts are in: no dropout, and no statistic moves."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def check_partition(model: nn.Module, parts: Sequence[Part]) -> None:
    """Check that `parts` hold every parameter of `model` exactly once.

    Raises:
        ValueError: A parameter is in no part, or in two.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    seen: dict[int, str] = {}
    for part, modules in parts:
        for parameter in (p for module in modules for p in module.parameters()):
            if id(parameter) in seen:
                raise ValueError(f"{names.get(id(parameter))} is in two parts: {seen[id(parameter)]} and {part}")
            seen[id(parameter)] = part
    left = [name for key, name in names.items() if key not in seen]
    if left:
        raise ValueError(f"in no part: {', '.join(left)}")
