"""Charged particles and springs in a box: the simulator of Kipf et al. (Neural Relational Inference, 2018)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

DT = 0.001  # duration of one step
MAX_FORCE = 0.1 / DT  # cap on each component of a particle's total force
SPEED = 0.5  # of every particle at the start
SPRING_CONSTANT = 0.1  # of a spring of strength one
SPREAD = {"charged": 1.0, "springs": 0.5}  # standard deviation of the initial positions
SPRING_STRENGTHS, SPRING_PROBABILITIES = (0.0, 0.5, 1.0), (0.5, 0.0, 0.5)

PHYSICS_VERSION = 1  # raise it whenever equal settings and seeds give other numbers: caches are then re-made

SPLITS = ("train", "valid", "test")

LARGEST_NUMBER = 1e18  # its square is still a float32
SMALLEST_SQUARE = 1e-100  # squared distances below it count as this, so that coincident particles do not divide by zero

# dim * n * n * simulations in a block. For 5 particles that is about 1,000 simulations: fewer pay NumPy's overhead per
# call, more leave the second-level cache.
BLOCK_NUMBERS = 75_000

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Settings:
    """What is simulated, and how often it is recorded.

    Args:
        simulation: ``'charged'`` (unit charges of either sign) or ``'springs'``.
        n_balls: number of particles, at least 1.
        dim: 2 or 3 dimensions.
        box_size: half-width of the box with elastic walls, in units of length; 0 for no box.
        length: number of steps of DT = 0.001, a multiple of ``sample_freq``.
        sample_freq: steps from one recorded frame to the next.

    ``length // sample_freq + 1`` frames are recorded: frame 0 is the initial state, the last one the state after
    ``length`` steps. (NRI's published files stop two frames earlier: 49 frames for length 5000.)

    Raises:
        ValueError: an argument, named, is out of range.
    """

    simulation: Literal["charged", "springs"] = "charged"
    n_balls: int = 5
    dim: int = 3
    box_size: float = 5.0
    length: int = 5000
    sample_freq: int = 100

    def __post_init__(self) -> None:
        if self.simulation not in SPREAD:
            raise ValueError(f"simulation: expected one of {sorted(SPREAD)}, got {self.simulation!r}")
        for name in ("n_balls", "dim", "length", "sample_freq"):
            check_count(name, getattr(self, name))
        if self.dim not in (2, 3):
            raise ValueError(f"dim: expected 2 or 3, got {self.dim}")
        is_number = isinstance(self.box_size, int | float) and not isinstance(self.box_size, bool)
        if not (is_number and math.isfinite(self.box_size) and self.box_size >= 0):
            raise ValueError(f"box_size: expected a finite half-width, or 0 for no box, got {self.box_size!r}")
        if self.length % self.sample_freq:
            raise ValueError(f"sample_freq: expected a divisor of {self.length} steps, got {self.sample_freq}")

    @property
    def frames(self) -> int:
        """Number of recorded frames, the initial state included."""
        return self.length // self.sample_freq + 1


@dataclass(frozen=True)
class Trajectories:
    """Recorded motions, all of the same number of particles and frames.

    Args:
        loc: positions, float64 ``[simulations, frames, dim, n]``.
        vel: velocities, of the same shape.
        charges: float64 ``[simulations, n, 1]``; ones for springs.
        edges: float64 ``[simulations, n, n]``, strengths of the interactions: products of charges (a particle with
            itself included, as published) or strengths of springs (zero diagonal).
        sample_freq: steps from one frame to the next.
        dt: duration of a step.

    Raises:
        ValueError: the shape of an array, named, does not fit, or its numbers are not finite and at most 1e18.
    """

    loc: Array
    vel: Array
    charges: Array
    edges: Array
    sample_freq: int
    dt: float = DT

    def __post_init__(self) -> None:
        if self.loc.ndim != 4 or self.loc.shape[2] not in (2, 3):
            raise ValueError(f"loc: expected shape [simulations, frames, 2 or 3, n], got {list(self.loc.shape)}")
        simulations, _, _, n = self.loc.shape
        shapes = {"loc": self.loc.shape, "vel": self.loc.shape,
                  "charges": (simulations, n, 1), "edges": (simulations, n, n)}  # fmt: skip
        for name, shape in shapes.items():
            check_array(name, getattr(self, name), shape)
        check_count("sample_freq", self.sample_freq)
        if not (math.isfinite(self.dt) and self.dt > 0):
            raise ValueError(f"dt: expected a positive duration, got {self.dt}")

    def __len__(self) -> int:
        return len(self.loc)


def check_count(name: str, value: object, least: int = 1) -> None:
    """Refuse what is not an integer, or too small.

    Args:
        name: of the argument.
        value: of the argument.
        least: the smallest that is accepted.

    Raises:
        ValueError: it is refused.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")


def check_array(name: str, value: Array, shape: tuple[int, ...]) -> None:
    """Refuse an array of another shape, or with numbers that are not finite or too large for float32 and its squares.

    Args:
        name: of the argument.
        value: of the argument.
        shape: the one that is accepted.

    Raises:
        ValueError: it is refused.
    """
    if value.shape != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, got {list(value.shape)}")
    if not np.isfinite(value).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    if np.abs(value).max(initial=0) > LARGEST_NUMBER:
        raise ValueError(f"{name}: expected numbers up to {LARGEST_NUMBER:.0e}, got {np.abs(value).max():.3g}")


def simulate(
    settings: Settings, num_simulations: int, seed: int | Sequence[int], *, progress: bool = False
) -> Trajectories:
    """Simulate from random initial states.

    Positions are normal, charges +-1 with equal probability, springs of strength 1 present with probability 1/2; the
    initial speed is 0.5 in a uniformly random direction.

    Args:
        settings: what to simulate.
        num_simulations: how many trajectories.
        seed: non-negative integer, or several; trajectory i depends on (seed, i) alone.
        progress: show a progress bar (needs tqdm).

    Returns:
        trajectories of ``settings.frames`` frames.

    Raises:
        ValueError: an argument, named, is out of range.
        FloatingPointError: as in :func:`advance`.
    """
    check_count("num_simulations", num_simulations)
    for number in seed if isinstance(seed, Sequence) else (seed,):
        check_count("seed", number, least=0)
    n, dim = settings.n_balls, settings.dim
    loc, vel = np.empty((2, num_simulations, dim, n))
    charges, edges = np.ones((num_simulations, n, 1)), np.empty((num_simulations, n, n))
    for i in range(num_simulations):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(i,)))
        loc[i] = SPREAD[settings.simulation] * rng.standard_normal((dim, n))
        vel[i] = rng.standard_normal((dim, n))
        if settings.simulation == "charged":
            charges[i] = rng.choice((-1.0, 1.0), size=(n, 1))
            edges[i] = charges[i] @ charges[i].T
        else:
            below = np.tril(rng.choice(SPRING_STRENGTHS, size=(n, n), p=SPRING_PROBABILITIES), -1)
            edges[i] = below + below.T
    vel *= SPEED / np.linalg.norm(vel, axis=1, keepdims=True)
    if settings.box_size > 0:
        loc = fold(loc, settings.box_size)
    loc, vel = advance(loc, vel, edges, settings, settings.length, settings.sample_freq, progress=progress)
    return Trajectories(loc, vel, charges, edges, settings.sample_freq)


def seed_of(seed: int, split: str) -> tuple[int, int]:
    """A seed under which :func:`simulate` gives trajectories that neither another split nor the bare seed gives.

    Args:
        seed: of all splits.
        split: ``'train'``, ``'valid'`` or ``'test'``.
    """
    return seed, 1 + SPLITS.index(split)  # NumPy pads seeds with zeros: (seed, 0) would be `seed` itself


def fold(loc: Array, half_width: float) -> Array:
    """Mirror positions at the walls, as often as it takes, into the box.

    Args:
        loc: positions, of any shape.
        half_width: of the box.
    """
    unfolded = np.mod(loc + half_width, 4 * half_width) - half_width
    return np.where(np.abs(loc) <= half_width, loc, half_width - np.abs(unfolded - half_width))


def advance(
    loc: Array,
    vel: Array,
    strengths: Array,
    settings: Settings,
    steps: int,
    frame_every: int,
    *,
    progress: bool = False,
) -> tuple[Array, Array]:
    """Continue motions from given states; each step is a kick, a drift, then the walls.

        v <- v + dt F(x),    x <- x + dt v
        charged:  F_i =        sum_j s_ij (x_i - x_j) / |x_i - x_j|^3     (zero between coincident particles)
        springs:  F_i = -0.1 * sum_j s_ij (x_i - x_j)

    Each component of F_i is capped at +-0.1 / dt.

    Args:
        loc: positions to start from, ``[simulations, dim, n]``.
        vel: velocities to start from, of the same shape.
        strengths: ``[simulations, n, n]``, symmetric; the diagonal does not act.
        settings: its ``simulation``, ``n_balls``, ``dim`` and ``box_size`` count here.
        steps: number of steps, a multiple of ``frame_every``.
        frame_every: steps from one returned frame to the next.
        progress: show a progress bar (needs tqdm).

    Returns:
        positions and velocities, float64 ``[simulations, steps // frame_every + 1, dim, n]``; frame 0 is the given
        state.

    Raises:
        ValueError: an argument, named, is out of range.
        FloatingPointError: a particle is too fast for the box, or for floats.
    """
    check_count("frame_every", frame_every)
    check_count("steps", steps, least=0)
    if steps % frame_every:
        raise ValueError(f"steps: expected a multiple of frame_every = {frame_every}, got {steps}")
    simulations, n, dim, box = len(loc), settings.n_balls, settings.dim, settings.box_size
    check_array("loc", loc, (simulations, dim, n))
    check_array("vel", vel, (simulations, dim, n))
    check_array("strengths", strengths, (simulations, n, n))
    if not np.array_equal(strengths, strengths.swapaxes(1, 2)):
        raise ValueError("strengths: expected symmetric matrices, got one that is not")
    if box > 0 and np.abs(loc).max() > box:
        raise ValueError(f"loc: expected positions inside the box of half-width {box}, got {np.abs(loc).max()}")

    num_frames = steps // frame_every + 1
    frames = np.empty((2, simulations, num_frames, dim, n))
    size = max(1, BLOCK_NUMBERS // (dim * n * n))
    blocks = [slice(start, start + size) for start in range(0, simulations, size)]
    work = [(block, k) for block in blocks for k in range(num_frames)]
    for block, k in _progress_bar(work, settings.simulation) if progress else work:
        if k == 0:
            motion = _motion(loc[block], vel[block], strengths[block], settings, frame_every)
        frames[:, block, k] = next(motion)
    if not np.isfinite(frames).all() or (box > 0 and np.abs(frames[0]).max() > box):
        raise FloatingPointError("a particle moved so far in one step that it left the box, or the range of floats")
    return frames[0], frames[1]


def _progress_bar(work: list, description: str) -> Iterable:
    from tqdm import tqdm

    return tqdm(work, desc=description, unit="frames")


def _motion(
    loc: Array, vel: Array, strengths: Array, settings: Settings, frame_every: int
) -> Iterator[tuple[Array, Array]]:
    """Yields positions and velocities of one block, [simulations, dim, n]: the given ones, then every `frame_every`."""
    # Simulations are the last, contiguous axis: every operation below runs over long rows.
    x, v = (np.array(state.transpose(1, 2, 0), order="C") for state in (loc, vel))
    pairs = _Pairs(strengths, settings)
    kick = np.empty_like(x)
    drift = np.empty_like(x)
    while True:
        yield x.transpose(2, 0, 1), v.transpose(2, 0, 1)
        for _ in range(frame_every):
            pairs.force(x, out=kick)
            np.maximum(kick, -MAX_FORCE, out=kick)
            np.minimum(kick, MAX_FORCE, out=kick)
            kick *= DT
            v += kick
            np.multiply(v, DT, out=drift)
            x += drift
            if settings.box_size > 0:
                _reflect(x, v, settings.box_size)


def _reflect(x: Array, v: Array, half_width: float) -> None:
    """Mirrors coordinates beyond a wall back, and turns their velocities inwards, in place."""
    if x.max() <= half_width and x.min() >= -half_width:
        return
    beyond = np.abs(x) > half_width
    outside = x[beyond]
    x[beyond] = np.copysign(2 * half_width, outside) - outside
    v[beyond] = -np.copysign(v[beyond], outside)


class _Pairs:
    """Forces between the pairs i < j of a block, ordered by j - i: pairs of equal j - i are slices of the particles."""

    def __init__(self, strengths: Array, settings: Settings) -> None:
        n = settings.n_balls
        self.charged = settings.simulation == "charged"
        self.slices = []
        rows: list[int] = []
        for apart in range(1, n):
            self.slices.append((slice(n - apart), slice(apart, n), slice(len(rows), len(rows) + n - apart)))
            rows.extend(range(n - apart))
        columns = [i + apart for apart in range(1, n) for i in range(n - apart)]
        self.strengths = np.ascontiguousarray(strengths[:, rows, columns].T) * (1 if self.charged else -SPRING_CONSTANT)
        shape = (settings.dim, *self.strengths.shape)
        self.difference, self.square = np.empty(shape), np.empty(shape)
        self.distance_squared, self.weight = np.empty(shape[1:]), np.empty(shape[1:])

    def force(self, x: Array, out: Array) -> None:
        """Writes into `out` the total force on each particle at positions `x`, both [dim, n, simulations]."""
        for i, j, pair in self.slices:
            np.subtract(x[:, i], x[:, j], out=self.difference[:, pair])
        self.difference *= self._inverse_cube() if self.charged else self.strengths
        out.fill(0.0)
        for i, j, pair in self.slices:
            out[:, i] += self.difference[:, pair]
            out[:, j] -= self.difference[:, pair]

    def _inverse_cube(self) -> Array:
        """strength / |x_i - x_j|^3 per pair, [pairs, simulations]."""
        np.multiply(self.difference, self.difference, out=self.square)
        np.add.reduce(self.square, axis=0, out=self.distance_squared)
        # Far below any distance that the cap on the force lets matter; makes the force zero at distance zero.
        np.maximum(self.distance_squared, SMALLEST_SQUARE, out=self.distance_squared)
        np.sqrt(self.distance_squared, out=self.weight)
        self.weight *= self.distance_squared
        return np.divide(self.strengths, self.weight, out=self.weight)
