"""Trains on graphs of ever other sizes, and prints what memory and time that took, as JSON."""

import argparse
import json
import resource
import time
from itertools import count, pairwise
from pathlib import Path
from statistics import median

import torch

from equivariant_attention.neighbors import knn_graph
from equivariant_attention.precompute import BasisCache
from experiments.forces import models as forces
from experiments.nbody import models

BEGUN = 200  # steps after which everything has been allocated once
POINTS, NEIGHBOURS, ATOMS = (2, 25), (1, 8), (2, 13)  # of a graph, from and below
KEPT, NEW = 100, 200  # graphs that come again, which the cache has room for, and for so many of them new ones


def drawn(least, below):
    return int(torch.randint(least, below, ()))


def cloud():
    G = knn_graph(torch.randn(drawn(*POINTS), 3), drawn(*NEIGHBOURS))
    G.ndata["v"] = torch.randn(G.num_nodes(), 1, 3)
    G.edata["w"] = torch.randn(G.num_edges(), 1)
    return G


def second_derivatives():
    """Forces, and their derivatives."""
    model = forces.SE3Transformer(num_layers=1, num_channels=4, num_degrees=2, n_heads=1)

    def loss():
        n = drawn(*ATOMS)
        _, force = forces.energy_and_forces(model, torch.randn(n, 3), torch.randint(1, 9, (n,)))
        return (force - 1).square().mean()

    return model, loss


def training():
    """First derivatives, on graphs that come again and on new ones; a cache of their frames is always full."""
    model = models.SE3Transformer(num_layers=1, num_channels=4, num_degrees=3, div=2, n_heads=2)
    kept, keys = [cloud() for _ in range(KEPT)], count(KEPT)
    cache = BasisCache(2, max_bytes=2**40)
    for key, G in enumerate(kept):
        cache.get_basis_and_r(G, [key])
    cache.max_bytes = cache.num_bytes

    def loss():
        number = drawn(0, KEPT + NEW)
        key, G = (number, kept[number]) if number < KEPT else (next(keys), cloud())
        result = model(G, cache.get_basis_and_r(G, [key])).square().mean()
        assert cache.num_bytes <= cache.max_bytes
        return result

    return model, loss


SOAKS = {"training": training, "forces": second_derivatives}


def soak(name, steps):
    """Resident memory, in bytes, and processor time of a step, in seconds: at the beginning, and later."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, loss = SOAKS[name]()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    memory, times = [], [time.process_time()]
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())
        times.append(time.process_time())
    seconds = [after - before for before, after in pairwise(times)]
    return {
        "memory": {"begun": memory[BEGUN - 1], "highest": max(memory[BEGUN:])},
        "seconds": {"begun": median(seconds[BEGUN : 4 * BEGUN]), "last": median(seconds[-3 * BEGUN :])},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("name", choices=SOAKS, help="what is trained")
    parser.add_argument("--steps", type=int, default=2000, help="(2,000)")
    print(json.dumps(soak(**vars(parser.parse_args()))))
