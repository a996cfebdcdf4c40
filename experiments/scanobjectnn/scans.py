"""Scans of furniture, made on the spot: boxes and cylinders as a camera sees them from one side, in a corner of a room.

A class is a function that draws one of its kind: solids in metres that stand on the floor z = 0, with their back to +y.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from experiments.scanobjectnn.rotations import draw_rotation

POINTS = 512  # of a scan
NOISE = 0.01  # m, standard deviation of a coordinate
MOST_BACKGROUND = 0.3  # largest share of points of floor and wall
DISTANCE = 3  # of the camera, in sizes of the object
TOUCHING = 1e-6  # how much of the way to a point is not looked at: it lies on a solid itself

Generator = np.random.Generator
Solid = tuple[bool, tuple[float, float, float], tuple[float, float, float]]  # fields of Solids


@dataclass(frozen=True)
class Scans:
    """Point clouds of objects that stand upright along z.

    Args:
        points: m, or any unit, float32 ``[scans, points, 3]``.
        on_object: whether a point is of the object, not of what is behind it, bool ``[scans, points]``.
        labels: class of each object, int64 ``[scans]``.
    """

    points: np.ndarray
    on_object: np.ndarray
    labels: np.ndarray

    def __getitem__(self, chosen: slice | np.ndarray) -> Scans:
        return Scans(self.points[chosen], self.on_object[chosen], self.labels[chosen])

    def __len__(self) -> int:
        return len(self.labels)


class Solids(NamedTuple):
    """Boxes, and cylinders that stand upright.

    Attributes:
        is_round: whether it is a cylinder, bool ``[solids]``.
        centre, half: its middle, and half of its size along each axis, m, ``[solids, 3]``.
    """

    is_round: np.ndarray
    centre: np.ndarray
    half: np.ndarray

    def and_(self, others: Solids) -> Solids:
        """All of both.

        Args:
            others: come after these.
        """
        return Solids(*map(np.concatenate, zip(self, others, strict=True)))


# ------------------------------------------------------------------------------------------------------------- classes


def block(width: float, depth: float, height: float, x: float = 0, y: float = 0, z: float = 0) -> Solid:
    """A box.

    Args:
        width, depth, height: along x, y and z.
        x, y, z: middle of its underside.
    """
    return False, (x, y, z + height / 2), (width / 2, depth / 2, height / 2)


def post(radius: float, height: float, x: float = 0, y: float = 0, z: float = 0) -> Solid:
    """A cylinder.

    Args:
        radius, height: of it.
        x, y, z: middle of its underside.
    """
    return True, (x, y, z + height / 2), (radius, radius, height / 2)


def legs(width: float, depth: float, height: float, thickness: float) -> list[Solid]:
    """Four legs at the corners of a rectangle.

    Args:
        width, depth, height, thickness: of it, and of the legs.
    """
    x, y = (width - thickness) / 2, (depth - thickness) / 2
    return [block(thickness, thickness, height, i * x, j * y) for i in (-1, 1) for j in (-1, 1)]


def bed(rng: Generator) -> list[Solid]:
    """A mattress on a base, a headboard, a pillow."""
    width, length, height, head = rng.uniform((0.9, 1.9, 0.3, 0.3), (1.8, 2.1, 0.55, 0.7))
    pillow = block(0.7 * width, 0.4, 0.12, y=length / 2 - 0.3, z=height)
    return [block(width, length, height), block(width, 0.06, height + head, y=length / 2), pillow]


def bin_(rng: Generator) -> list[Solid]:
    """A cylinder with a rim."""
    radius, height = rng.uniform((0.12, 0.3), (0.22, 0.65))
    return [post(radius, height), post(1.1 * radius, 0.04, z=height)]


def box(rng: Generator) -> list[Solid]:
    """A box, maybe with a lid."""
    width, depth, height = rng.uniform((0.3, 0.3, 0.15), (0.7, 0.5, 0.45))
    lid = [block(width + 0.04, depth + 0.04, 0.06, z=height - 0.04)]
    return [block(width, depth, height), *lid[: rng.integers(2)]]


def cabinet(rng: Generator) -> list[Solid]:
    """A tall box on a narrower one, with handles in front."""
    width, depth, height = rng.uniform((0.5, 0.4, 0.9), (1.1, 0.6, 1.7))
    handles = [block(0.03, 0.04, 0.2, i * 0.06, -depth / 2, 0.5 * height) for i in (-1, 1)]
    return [block(0.9 * width, 0.9 * depth, 0.08), block(width, depth, height, z=0.08), *handles]


def chair(rng: Generator) -> list[Solid]:
    """A seat on four legs, a back, maybe arms."""
    width, depth, height, back = rng.uniform((0.4, 0.4, 0.38, 0.35), (0.55, 0.55, 0.5, 0.6))
    arms = [block(0.05, depth, 0.05, i * width / 2, z=height + 0.22) for i in (-1, 1)]
    seat = [*legs(width, depth, height, 0.05), block(width, depth, 0.06, z=height)]
    return [*seat, block(width, 0.05, back, y=depth / 2, z=height), *arms[: 2 * rng.integers(2)]]


def desk(rng: Generator) -> list[Solid]:
    """A top on two panels, a panel behind, drawers on one side."""
    width, depth, height = rng.uniform((1.1, 0.55, 0.7), (1.6, 0.8, 0.78))
    panels = [block(0.04, depth, height, i * (width - 0.04) / 2) for i in (-1, 1)]
    drawers = block(0.4, 0.9 * depth, 0.6 * height, rng.choice([-1, 1]) * (width / 2 - 0.24), z=0.4 * height)
    behind = block(width, 0.03, 0.5 * height, y=depth / 2 - 0.05, z=0.5 * height)
    return [*panels, block(width, depth, 0.04, z=height), drawers, behind]


def display(rng: Generator) -> list[Solid]:
    """A screen on a stand."""
    width, stand = rng.uniform((0.5, 0.08), (1.1, 0.2))
    screen = block(width, 0.05, 0.6 * width, z=stand)
    return [screen, block(0.08, 0.04, stand + 0.1, y=0.04), block(0.45 * width, 0.22, 0.02)]


def door(rng: Generator) -> list[Solid]:
    """A leaf in a frame, with a handle."""
    width, height = rng.uniform((0.7, 1.9), (1.0, 2.1))
    posts = [block(0.08, 0.12, height, i * (width / 2 + 0.04)) for i in (-1, 1)]
    handle = block(0.12, 0.05, 0.03, 0.35 * width, -0.05, 1.0)
    return [block(width, 0.05, height), *posts, block(width + 0.16, 0.12, 0.08, z=height), handle]


def lamp(rng: Generator) -> list[Solid]:
    """A shade on a pole on a foot."""
    foot, pole, shade, height = rng.uniform((0.1, 0.4, 0.14, 0.18), (0.18, 1.4, 0.25, 0.32))
    return [post(foot, 0.03), post(0.02, pole), post(shade, height, z=pole)]


def shelf(rng: Generator) -> list[Solid]:
    """Boards between two sides, maybe with a back."""
    width, depth, height = rng.uniform((0.6, 0.25, 1.1), (1.2, 0.4, 2.0))
    sides = [block(0.03, depth, height, i * width / 2) for i in (-1, 1)]
    boards = [block(width, depth, 0.03, z=z) for z in np.linspace(0, height, rng.integers(4, 7))]
    return [*sides, *boards, *[block(width, 0.02, height, y=depth / 2)][: rng.integers(2)]]


def sofa(rng: Generator) -> list[Solid]:
    """A seat between two arms, before a back."""
    width, depth, seat, back = rng.uniform((1.3, 0.75, 0.35, 0.3), (2.2, 0.95, 0.45, 0.5))
    arms = [block(0.18, depth, seat + 0.2, i * width / 2) for i in (-1, 1)]
    return [block(width, depth, seat), block(width, 0.2, seat + back, y=depth / 2 - 0.1), *arms]


def table(rng: Generator) -> list[Solid]:
    """A top on four legs, or a round one on a pole."""
    width, depth, height = rng.uniform((0.8, 0.6, 0.4), (1.6, 1.0, 0.76))
    if rng.random() < 0.3:
        return [post(0.25, 0.03), post(0.04, height), post(depth / 2, 0.04, z=height)]
    return [*legs(width, depth, height, 0.06), block(width, depth, 0.04, z=height)]


SHAPES: dict[str, Callable[[Generator], list[Solid]]] = {
    "bed": bed, "bin": bin_, "box": box, "cabinet": cabinet, "chair": chair, "desk": desk, "display": display,
    "door": door, "lamp": lamp, "shelf": shelf, "sofa": sofa, "table": table,
}  # fmt: skip
CLASSES = tuple(SHAPES)


def stacked(solids: list[Solid]) -> Solids:
    """Solids in arrays.

    Args:
        solids: each of :func:`block` or :func:`post`.
    """
    return Solids(*map(np.array, zip(*solids, strict=True)))


def extent(solids: Solids) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest coordinates of solids, ``[3]`` each.

    Args:
        solids: which.
    """
    return (solids.centre - solids.half).min(0), (solids.centre + solids.half).max(0)


def room(furniture: Solids, rng: Generator) -> Solids:
    """The floor about some solids, and behind half of them a wall.

    Args:
        furniture: what stands there.
        rng: draws how far they reach.
    """
    low, high = extent(furniture)
    (width, depth, height), (x, y, _) = high - low, (low + high) / 2
    margin, part, gap = rng.uniform((0.2, 0.6, 0.03), (0.6, 1.1, 0.15))
    beyond = margin * max(width, depth)
    floor = block(width + beyond, depth + beyond, 0.02, x, y, -0.02)
    wall = block(width + beyond, 0.02, part * height, x, high[1] + gap)
    return stacked([floor, *[wall][: rng.integers(2)]])


# -------------------------------------------------------------------------------------------------------------- camera


def on_surface(solids: Solids, count: int, rng: Generator) -> np.ndarray:
    """Points that are uniformly distributed on the surfaces of solids, ``[count, 3]``.

    Args:
        solids: which.
        count: how many points.
        rng: draws them.
    """
    a, b, c = solids.half.T
    of_boxes, of_posts = [8 * b * c, 8 * a * c, 8 * a * b], [4 * np.pi * a * c, 0 * a, 2 * np.pi * a * b]
    areas = np.where(solids.is_round, of_posts, of_boxes).T.ravel()
    solid, axis = np.divmod(rng.choice(len(areas), count, p=areas / areas.sum()), 3)
    unit = rng.uniform(-1, 1, (count, 3))
    angle, radius = np.pi * unit[:, 0], np.where(axis == 2, np.sqrt(rng.random(count)), 1)
    rows = np.arange(count)
    unit[rows, axis] = np.sign(unit[rows, axis])
    circle = np.stack([radius * np.cos(angle), radius * np.sin(angle), unit[:, 2]], axis=1)
    return solids.centre[solid] + solids.half[solid] * np.where(solids.is_round[solid, None], circle, unit)


def is_seen(points: np.ndarray, camera: np.ndarray, solids: Solids) -> np.ndarray:
    """Whether no solid is between the camera and a point, bool ``[points]``.

    Args:
        points: on solids, ``[points, 3]``.
        camera: where it is, outside of all, ``[3]``.
        solids: that may hide points.
    """
    start = (camera - solids.centre) / solids.half  # where every solid is a unit cube or a unit cylinder
    way = (points[:, None] - camera) / solids.half
    way = np.where(way == 0, 1e-12, way)
    middle, reach = -start / way, 1 / np.abs(way)
    enters, leaves = middle - reach, middle + reach
    square, product = (way[..., :2] ** 2).sum(-1), (way * start)[..., :2].sum(-1)
    root = product**2 - square * ((start[:, :2] ** 2).sum(-1) - 1)
    missed, root = root < 0, np.sqrt(np.maximum(root, 0))
    for times, sign in ((enters, -1), (leaves, 1)):
        of_posts = np.where(missed, -sign * np.inf, (sign * root - product) / square)
        times[..., :2] = np.where(solids.is_round[:, None], of_posts[..., None], times[..., :2])
    first, last = enters.max(-1), leaves.min(-1)
    return ~((first < last) & (last > 0) & (first < 1 - TOUCHING)).any(1)


def place_camera(furniture: Solids, rng: Generator) -> np.ndarray:
    """Where a camera is that looks at furniture from the front, up to 65 degrees aside and 10 to 40 above, ``[3]``.

    Args:
        furniture: what it looks at.
        rng: draws the direction.
    """
    low, high = extent(furniture)
    aside, up = np.radians(rng.uniform((-65, 10), (65, 40)))
    direction = np.array([np.cos(up) * np.sin(aside), -np.cos(up) * np.cos(aside), np.sin(up)])
    return (low + high) / 2 + DISTANCE * np.linalg.norm(high - low) * direction


def scan(name: str, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """What a camera sees of an object of a class, turned about z.

    Args:
        name: of the class.
        rng: draws the object, the room, the camera and the points.

    Returns:
        points, m, ``[POINTS, 3]``, and whether they are of the object.
    """
    furniture = stacked(SHAPES[name](rng))
    background = room(furniture, rng)
    solids, camera = furniture.and_(background), place_camera(furniture, rng)

    def seen(some: Solids, count: int) -> np.ndarray:
        found = np.empty((0, 3))
        while len(found) < count:
            points = on_surface(some, POINTS, rng)
            found = np.concatenate([found, points[is_seen(points, camera, solids)]])
        return found[:count]

    behind = int(rng.uniform(0, MOST_BACKGROUND) * POINTS)
    points = np.concatenate([seen(furniture, POINTS - behind), seen(background, behind)])
    points += rng.normal(scale=NOISE, size=points.shape)
    return points @ draw_rotation("z", rng).T, np.arange(POINTS) < POINTS - behind


def make_scans(count: int, seed: int, part: int) -> Scans:
    """Scans of objects of all classes in turn; the same ones for the same seed and part, however many.

    Args:
        count: how many.
        seed, part: of the random numbers; parts have none in common.
    """
    made = [scan(CLASSES[i % len(CLASSES)], np.random.default_rng((seed, part, i))) for i in range(count)]
    points, on_object = map(np.stack, zip(*made, strict=True))
    return Scans(points.astype(np.float32), on_object, np.arange(count) % len(CLASSES))
