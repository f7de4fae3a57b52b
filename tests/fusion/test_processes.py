"""One process: what it gives is what there is. For several see test_alignment.py and ../pipeline/test_processes.py."""

from __future__ import annotations

import torch
from diptych.fusion.processes import gather_rows, mean_over_processes, several, times_processes


def test_one_process_has_all():
    states = torch.randn(3, 2, requires_grad=True)
    assert not several()
    assert mean_over_processes(states) is times_processes(states) is states
    assert gather_rows(states) is states
