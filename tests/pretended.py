"""Has tensors of torch on the CPU taken for such on a GPU, where there is none."""

from __future__ import annotations

import types

import torch

from fasthist import gpu_intake

gpu_intake.TORCH_KIND = "cpu"
torch.cuda.current_stream = lambda _=None: types.SimpleNamespace(cuda_stream=0)


def model(tensors):
    """Return so many parameters by name."""
    return {
        f"layers/{i}/weight": torch.nn.Parameter(torch.ones(16, 16, dtype=torch.bfloat16))
        for i in range(tensors)
    }
