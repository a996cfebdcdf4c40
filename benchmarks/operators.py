"""Where the time of a step goes, by kinds of operators."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.steps import Step

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # some builds of PyTorch announce every profile on stderr

ELEMENTWISE, REST = "elementwise, sums and others", "Python and rest"
KINDS = {
    # Libraries in C++, which are no operators of PyTorch's.
    "messages in C++": "edge_first::forward edge_first::gradient",
    "other layers in C++": """
        attention::forward attention::gradient linear::forward linear::gradient
        norm::norms norm::norms_gradient norm::rescaled norm::rescaled_gradient norm::biased norm::biased_gradient
        norm::normalised norm::normalised_gradient
    """,
    "matrix products": "mm addmm mv addmv dot",
    "batched products": "bmm baddbmm",
    "normalisation": "native_layer_norm native_layer_norm_backward",
    "gather and scatter": """
        index index_select index_add index_copy index_put _index_put_impl gather scatter scatter_add scatter_reduce
        segment_reduce embedding embedding_dense_backward
    """,
    "copies and new tensors": """
        copy cat stack clone contiguous to _to_copy flip roll constant_pad_nd select_backward slice_backward fill zero
        zeros zeros_like ones ones_like full empty empty_like empty_strided new_empty new_empty_strided new_zeros
    """,
    ELEMENTWISE: "",  # what is in no list
    # These compute nothing: their time is that of calling them.
    REST: """
        view reshape _reshape_alias _unsafe_view transpose t permute unsqueeze squeeze expand as_strided select slice
        narrow split split_with_sizes unbind unflatten flatten detach alias linear matmul einsum layer_norm item
        _local_scalar_dense is_nonzero
    """,
}
_KIND_OF = {operator: kind for kind, operators in KINDS.items() for operator in operators.split()}


def time_by_kind(step: Step, device: str) -> dict[str, Any]:
    """Profile one call.

    Args:
        step: what to call; it has been called before.
        device: where it computes. On a GPU, the time is that of its kernels.

    Returns:
        ``'seconds'`` that the call took, and ``'kinds'``: how many of these went to each kind of operators.
    """
    on_gpu = torch.device(device).type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as recorded:
        start = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    kinds = dict.fromkeys(KINDS, 0.0)
    for event in recorded.key_averages():
        if kind := _kind(event.key):
            kinds[kind] += 1e-6 * (event.self_device_time_total if on_gpu else event.self_cpu_time_total)
    # What no operator accounts for: Python itself, the bookkeeping of derivatives and of the profiler.
    kinds[REST] = max(0.0, seconds - sum(time for kind, time in kinds.items() if kind != REST))
    return {"seconds": seconds, "kinds": kinds}


def _kind(event: str) -> str | None:
    library, _, operator = event.rpartition("::")
    if library == "aten":
        return _KIND_OF.get(operator.removesuffix("_"), ELEMENTWISE)
    return _KIND_OF.get(event)
