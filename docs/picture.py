"""Draws docs/equivariance.png: what an (untrained) model predicts for five particles, before and after turning them.

python docs/picture.py
"""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from equivariant_attention.graphs import Graph
from equivariant_attention.neighbors import fully_connected_graph
from equivariant_attention.so3 import random_rotation
from equivariant_attention.testing import equivariance_error
from experiments.nbody.models import SE3Transformer
from utils.files import atomic_write

PATH = Path(__file__).with_name("equivariance.png")


def main(path: Path = PATH) -> None:
    """Draw the picture to ``path``."""
    torch.manual_seed(5)
    x, v, charge = torch.randn(5, 3), torch.randn(5, 3), torch.tensor([1.0, -1, 1, -1, 1])
    rotation = random_rotation(generator=torch.Generator().manual_seed(1))
    model = SE3Transformer(num_layers=2, num_channels=8, num_degrees=3, div=2, n_heads=2)
    figure = plt.figure(figsize=(9, 4.2), dpi=110)
    for i, (turned, title) in enumerate([(torch.eye(3), "input and prediction"), (rotation, "input turned")]):
        G = particles(x @ turned.T, v @ turned.T, charge)
        axes = figure.add_subplot(1, 2, i + 1, projection="3d")
        draw(axes, x @ turned.T, model(G)[:, 0].detach(), charge)
        axes.set_title(title)
    error = equivariance_error(model, particles(x, v, charge), node_degrees={"v": 1}, output_degree=1)["rotation"]
    figure.suptitle(f"An untrained SE(3)-Transformer: its vectors turn with its input (relative error {error:.0e})")
    with atomic_write(path) as file:
        figure.savefig(file, format="png", bbox_inches="tight")
    plt.close(figure)


def particles(x: Tensor, v: Tensor, charge: Tensor) -> Graph:
    """A fully connected graph of charged particles."""
    G = fully_connected_graph(x)
    src, dst = G.edges()
    G.ndata["v"] = v.unsqueeze(1)
    G.edata["w"] = (charge[src] * charge[dst]).unsqueeze(1)
    return G


def draw(axes: plt.Axes, x: Tensor, arrows: Tensor, charge: Tensor) -> None:
    """Particles, coloured by charge, and one vector for each."""
    colors = ["tab:red" if c > 0 else "tab:blue" for c in charge]
    axes.scatter(*x.T.numpy(), c=colors, s=60, depthshade=False)
    arrows = 1.2 * arrows / arrows.norm(dim=-1).max()
    axes.quiver(*x.T.numpy(), *arrows.T.numpy(), color="black", linewidth=1.5)
    for i, position in enumerate(x.tolist()):
        axes.text(*(p + 0.12 for p in position), str(i + 1))
    axes.set(xlim=(-2, 2), ylim=(-2, 2), zlim=(-2, 2), xlabel="x", ylabel="y", zlabel="z")
    axes.set_box_aspect((1, 1, 1))


if __name__ == "__main__":
    main()
