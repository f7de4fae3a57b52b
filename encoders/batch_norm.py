"""Batch norm over the rows of all processes, on any device: one batch has one mean, however many share it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm(nn.BatchNorm2d):
    """Batch norm (Ioffe and Szegedy, 2015) whose statistics in training are those of all processes' rows.

    A batch of one value per channel has no statistics: it is normalised as in evaluation. So it is where a
    single row has an image, and the last grid is one region. In training all processes have to call it equally
    often, with no rows if need be.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(batch, channels, height, width), normalised."""
        if self.training and shared():
            return self._over_processes(input)
        if self.training and input.numel() <= input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)

    def _over_processes(self, input: Tensor) -> Tensor:
        states = input.to(torch.promote_types(input.dtype, torch.float32))
        count = states.new_full((1,), states.numel() / states.shape[1])
        total = _Sum.apply(torch.cat([states.sum(dim=(0, 2, 3)), count]))  # (channels + 1,)
        count = total[-1].detach().clamp(min=1)
        mean = total[:-1] / count
        centred = states - mean[:, None, None]
        var = _Sum.apply(centred.square().sum(dim=(0, 2, 3))) / count
        running_mean, running_var = cast(Tensor, self.running_mean), cast(Tensor, self.running_var)
        enough = count > 1
        with torch.no_grad():
            step = enough.to(running_mean) * (self.momentum or 0.0)
            unbiased = var * count / (count - 1).clamp(min=1)
            running_mean.lerp_(mean.to(running_mean), step)
            running_var.lerp_(unbiased.to(running_var), step)
            cast(Tensor, self.num_batches_tracked).add_(enough)
        centred = torch.where(enough, centred, states - running_mean[:, None, None])
        scale = (torch.where(enough, var, running_var) + self.eps).rsqrt() * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)


def shared() -> bool:
    """Whether several processes share a batch."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone()
        dist.all_reduce(total, group=_group(dist.group.WORLD))
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Sum.forward(ctx, grad)


@lru_cache(maxsize=1)
def _group(_: Any) -> Any:
    """A group of its own: on the way back these sums must not cross those of DistributedDataParallel.

    Whose order differs between processes where one has no row with an image, or none with a text.
    """
    return dist.new_group()
