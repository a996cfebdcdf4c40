"""
Training with several processes
===============================

Several processes, on as many GPUs or CPU cores, each take a share of every batch, and
PyTorch's ``DistributedDataParallel`` averages their gradients. Nothing in the layers
needs to know: losses are those of one process with the whole batch. This page trains
both ways and compares. Fifteen seconds on two cores.
"""

import os
import subprocess
import sys

import torch
from equivariant_attention.models import SE3Transformer
from equivariant_attention.neighbors import knn_graph
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

# %%
# A model and a task
# ------------------
# How far are points spread out, given their four nearest neighbours? Every process
# makes all data and takes its share by number; with data from disk you would read only
# that (or take ``torch.utils.data.DistributedSampler``).

BATCH, STEPS, POINTS = 16, 20, 10


def new_model():
    """One number per graph."""
    hidden = {0: 8, 1: 8, 2: 8}
    return SE3Transformer(
        {0: 1}, hidden, {0: 1}, num_layers=1, n_heads=2, pooling="avg", return_type=0
    ).double()


def graphs(x):
    """One batch of graphs of positions [graphs, points, 3]."""
    return knn_graph(
        x.flatten(0, 1), k=4, batch=torch.arange(len(x)).repeat_interleave(POINTS)
    )


def batches(share, shares):
    """Of every batch, the graphs of one process: positions and targets."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        x = torch.randn(BATCH, POINTS, 3, generator=generator, dtype=torch.float64)
        x = x * torch.rand(BATCH, 1, 1, generator=generator, dtype=torch.float64)
        yield graphs(x[share::shares]), x.var(dim=1).sum(-1)[share::shares]


# %%
# Training
# --------
# The loop is that of one process. In float64, so that a difference would show. All
# processes start from the same weights, those of the first: ``DistributedDataParallel``
# sees to it, and a seed does here.


def train(share=0, shares=1):
    """The loss of every step, a mean over the whole batch."""
    torch.manual_seed(0)
    model = new_model()
    if shares > 1:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for G, target in batches(share, shares):
        output = model(G, {"0": torch.ones_like(G.ndata["x"][..., :1])}).flatten()
        loss = (output - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        # The mean over equal shares is that over the batch.
        mean = loss.detach().clone()
        if shares > 1:
            distributed.all_reduce(mean)
        losses.append(float(mean) / shares)
    return losses


# %%
# What every process does
# -----------------------
# ``torchrun`` starts the processes and lets them find each other. ``gloo`` is the way
# to talk on CPUs, ``nccl`` on GPUs, where each process also moves its model and graphs
# to its own device, ``cuda:LOCAL_RANK``.
#
# The first process then trains once more, alone and on whole batches, and compares.


def worker():
    """One of the processes."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    losses = train(rank, processes)
    distributed.barrier()
    distributed.destroy_process_group()
    if rank == 0:
        alone = train()
        print(f"{'step':>4} {f'{processes} processes':>15} {'one process':>15}")
        for step in (0, STEPS // 2, STEPS - 1):
            print(f"{step:4} {losses[step]:15.12f} {alone[step]:15.12f}")
        worst = max(abs(a - b) / b for a, b in zip(losses, alone, strict=True))
        print(f"largest relative difference of a loss: {worst:.0e}")
        assert worst < 1e-9


# %%
# Launching
# ---------
# ``torchrun --standalone --nproc-per-node 2 multi_process.py`` is the usual way. Run as
# a plain script, this page calls it by itself.

if __name__ == "__main__":
    if distributed.is_torchelastic_launched():
        worker()
    else:
        torchrun = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
        ]
        run = subprocess.run(
            [*torchrun, __file__],
            env={"OMP_NUM_THREADS": "1", **os.environ},
            capture_output=True,
            text=True,
        )
        print(run.stdout, end="")
        assert run.returncode == 0, run.stderr
