"""Processes that share a batch: what each gives to all, so that it is one batch however many they are."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


def several() -> bool:
    """Whether more than one process takes part."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def mean_over_processes(tensor: Tensor) -> Tensor:
    """The mean of what the processes give, of one shape in all of them; `tensor` itself where there is one process.

    Its gradient is that of the process's own part, times the number of processes: gradients that are then averaged over
    the processes, as DistributedDataParallel does, are those of the mean. All have to call it equally often.
    """
    if not several():
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return tensor + (total / dist.get_world_size() - tensor).detach()


def gather_rows(tensor: Tensor) -> Tensor:
    """The rows of all processes, one process after the other; only one's own have a gradient.

    Processes with fewer rows are padded to the longest with 0. All have to call it equally often.
    """
    if not several():
        return tensor
    processes, rows = dist.get_world_size(), len(tensor)
    lengths = torch.zeros(processes, dtype=torch.int64, device=tensor.device)
    lengths[dist.get_rank()] = rows
    dist.all_reduce(lengths)
    longest = int(lengths.max())
    padded = F.pad(tensor.detach(), (0, 0) * (tensor.dim() - 1) + (0, longest - rows)).contiguous()
    gathered = [torch.empty_like(padded) for _ in range(processes)]
    dist.all_gather(gathered, padded)
    first = dist.get_rank() * longest
    everyone = torch.cat(gathered)
    return torch.cat([everyone[:first], tensor, everyone[first + rows :]])


def times_processes(tensor: Tensor, power: int = 1) -> Tensor:
    """`tensor`, its gradient times the number of processes (with `power` -1, divided by it).

    Gradients are averaged over the processes. Where each computes the loss of all rows, of which its own alone have a
    gradient, that makes too little of theirs, and of what all share just enough.
    """
    if not several():
        return tensor
    factor = float(dist.get_world_size()) ** power
    return tensor * factor + (tensor - tensor * factor).detach()
