"""How long the first equivariant basis of degree 3 takes, in new processes: the constants of the group are made in it.

python -m benchmarks.first_basis        prints the median and the longest of ten
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

from equivariant_attention.graphs import Graph
from equivariant_attention.modules import get_basis_and_r

ROOT = Path(__file__).parents[1]
MAX_DEGREE, PROCESSES = 3, 10


def first_basis() -> float:
    """Seconds of the first call of a process, all pairs of degrees read."""
    G = Graph([0], [1])
    G.edata["d"] = torch.randn(1, 3)
    torch.randn(2, 2) @ torch.randn(2, 2)  # PyTorch's first product starts its threads, which are not the basis's
    start = time.perf_counter()
    basis, _ = get_basis_and_r(G, MAX_DEGREE)
    for pair in basis:
        basis[pair]
    return time.perf_counter() - start


def main() -> None:
    """Print the times."""
    command = [sys.executable, "-c", "from benchmarks.first_basis import first_basis; print(first_basis())"]
    times = [1000 * float(subprocess.check_output(command, cwd=ROOT)) for _ in range(PROCESSES)]
    print(f"first basis of degree {MAX_DEGREE}: median {median(times):.0f} ms, longest {max(times):.0f} ms")


if __name__ == "__main__":
    as_written = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(
        "python -m benchmarks.first_basis", description=__doc__, formatter_class=as_written
    ).parse_args()
    main()
