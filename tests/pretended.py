"""Tensors of torch that say that they lie on a GPU, where there is none: their memory is the host's."""

from __future__ import annotations

import types

import torch


class OnCuda(torch.nn.Parameter):
    """A tensor that answers for a CUDA tensor what fasthist asks."""

    device = torch.device("cuda", 0)
    is_cuda = True

    def get_device(self):
        """Return the number of the GPU."""
        return 0


torch.cuda.current_stream = lambda _=None: types.SimpleNamespace(cuda_stream=0)


def on_cuda(tensor):
    """Return a tensor that pretends."""
    return OnCuda(tensor, requires_grad=False)
