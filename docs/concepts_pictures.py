"""Draws the pictures of docs/concepts.md: harmonics.png, spherical harmonics; message.png, a message that turns.

python docs/concepts_pictures.py
"""

import math
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from equivariant_attention.fibers import Features, Fiber
from equivariant_attention.graphs import Graph
from equivariant_attention.modules import GConvSE3Partial, get_basis_and_r
from equivariant_attention.so3 import random_rotation, spherical_harmonics, wigner_d
from utils.files import atomic_write

FOLDER = Path(__file__).parent
POLYNOMIALS = {1: ["x", "y", "z"], 2: ["xz", "xy", "3y^2-1", "yz", "z^2-x^2"]}  # up to a factor
DEGREES = 3


def main(folder: Path = FOLDER) -> None:
    """Draw both pictures into ``folder``."""
    for name, draw in (("harmonics.png", harmonics), ("message.png", message)):
        figure = draw()
        with atomic_write(folder / name) as file:
            figure.savefig(file, format="png", bbox_inches="tight")
        plt.close(figure)


def harmonics() -> plt.Figure:
    """One row for each degree, one column for each order, the polar axis y upwards."""
    figure = plt.figure(figsize=(9, 6), dpi=110)
    for l in range(4):
        for m in range(-l, l + 1):
            axes = figure.add_subplot(4, 7, 7 * l + m + 4, projection="3d")
            draw_feature(axes, torch.eye(2 * l + 1)[l + m])
            polynomial = f"  ${POLYNOMIALS[l][l + m]}$" if l in POLYNOMIALS else ""
            axes.set_title(f"$m={m}${polynomial}", fontsize=8, y=0.95)
            if m == -l:
                axes.text2D(-0.75, 0.5, f"degree {l}", transform=axes.transAxes, fontsize=9)
    figure.suptitle(
        "Real spherical harmonics: a surface reaches as far as the value there (red +, blue -); y points up"
    )
    return figure


def message() -> plt.Figure:
    """What is sent along an edge, and what arrives in each degree; below, the same turned."""
    torch.manual_seed(3)
    layer = GConvSE3Partial(Fiber(structure=[(1, 1)]), Fiber(DEGREES, 1))
    d, arrow = torch.tensor([1.0, 0.4, 0.2]), torch.tensor([0.2, 1.0, -0.3])
    rotation = random_rotation(generator=torch.Generator().manual_seed(6))
    rows = [(d, arrow), (rotation @ d, rotation @ arrow)]
    arrived = [sent_along(layer, *row) for row in rows]
    figure = plt.figure(figsize=(9, 5), dpi=110)
    for i, (row, features) in enumerate(zip(rows, arrived, strict=True)):
        axes = figure.add_subplot(2, DEGREES + 1, (DEGREES + 1) * i + 1, projection="3d")
        draw_edge(axes, *row)
        axes.set_title("turned" if i else "edge, and the arrow sent", fontsize=9)
        for l in range(DEGREES):
            axes = figure.add_subplot(2, DEGREES + 1, (DEGREES + 1) * i + l + 2, projection="3d")
            draw_feature(axes, features[str(l)].flatten())
            axes.set_title("" if i else f"message of degree {l}", fontsize=9)
    figure.suptitle(f"Turn the edge and what is sent: the message turns (error {turning_error(arrived, rotation):.0e})")
    return figure


def sent_along(layer: GConvSE3Partial, d: Tensor, arrow: Tensor) -> Features:
    """The messages of an arrow along one edge from node 1 to node 0."""
    G = Graph([1], [0])
    G.edata["d"] = d[None]
    basis, r = get_basis_and_r(G, DEGREES - 1)
    with torch.no_grad():
        return layer({"1": arrow.expand(2, 1, 3)}, G=G, r=r, basis=basis)


def turning_error(arrived: list[Features], rotation: Tensor) -> float:
    """The largest difference between the messages turned, and those of the turned edge, relative to the largest."""
    before, after = arrived
    return max(
        float((before[d] @ wigner_d(int(d), rotation).T - after[d]).abs().max() / before[d].abs().max()) for d in before
    )


def draw_feature(axes: plt.Axes, feature: Tensor) -> None:
    """A feature ``[2l + 1]`` as the surface whose distance from the middle is the sum of its spherical harmonics."""
    l = (len(feature) - 1) // 2
    polar, around = torch.meshgrid(torch.linspace(0, math.pi, 49), torch.linspace(0, 2 * math.pi, 65), indexing="ij")
    x, y, z = polar.sin() * around.sin(), polar.cos(), polar.sin() * around.cos()
    direction = torch.nn.functional.normalize(torch.stack([x, y, z], dim=-1), dim=-1)
    value = spherical_harmonics(l, direction)[..., l * l :] @ feature
    value = value / value.abs().max()
    x, y, z = (value.abs().unsqueeze(-1) * direction).unbind(-1)
    colors = plt.get_cmap("coolwarm")((0.5 + 0.5 * value.sign()).numpy())
    axes.plot_surface(z.numpy(), x.numpy(), y.numpy(), facecolors=colors, rstride=1, cstride=1, linewidth=0)
    _bare(axes, 0.65)


def draw_edge(axes: plt.Axes, d: Tensor, arrow: Tensor) -> None:
    """Source and destination with the edge between them, and the arrow at the source."""
    (sx, sy, sz), (tx, ty, tz) = (-0.5 * d).tolist(), (0.5 * d).tolist()
    axes.plot([sz, tz], [sx, tx], [sy, ty], color="gray")
    axes.scatter([sz, tz], [sx, tx], [sy, ty], c=["black", "white"], edgecolors="black", s=60, depthshade=False)
    ax, ay, az = (0.7 * arrow).tolist()
    axes.quiver(sz, sx, sy, az, ax, ay, color="tab:red", linewidth=2)
    _bare(axes, 0.5)


def _bare(axes: plt.Axes, size: float) -> None:
    """The plotted axes are z, x and y of the library, so that its polar axis points up."""
    axes.set(xlim=(-size, size), ylim=(-size, size), zlim=(-size, size))
    axes.set_box_aspect((1, 1, 1))
    axes.view_init(elev=18, azim=28)
    axes.set_axis_off()


if __name__ == "__main__":
    main()
