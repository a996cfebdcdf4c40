from pathlib import Path

import numpy as np
import pytest

from experiments.nbody.public_stream import EGNN_SIZES, public_trajectories
from experiments.nbody.simulation import Settings, advance

SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "nbody_charged5.npz"
SETTINGS = Settings(box_size=0.0, length=40, sample_freq=10)
SIZES = {"train": 5, "valid": 3, "test": 2}


def test_splits_follow_each_other_in_one_sequence():
    whole = public_trajectories(SETTINGS, "train", sizes={"train": 10, "valid": 1, "test": 1})
    parts = [public_trajectories(SETTINGS, split, sizes=SIZES) for split in SIZES]
    for name in ("loc", "vel", "charges", "edges"):
        np.testing.assert_array_equal(np.concatenate([getattr(p, name) for p in parts]), getattr(whole, name))
    few = public_trajectories(SETTINGS, "valid", 2, sizes=SIZES)
    np.testing.assert_array_equal(few.loc, parts[1].loc[:2])


def test_sequence_is_that_of_the_generator():
    """Charges, positions, directions of velocities, and noise of variance zero, from one state of NumPy's generator."""
    rng = np.random.RandomState(7)
    for _ in range(2):
        charges = np.sign(rng.random_sample((5, 1)) - 0.5)
        x, v = rng.randn(3, 5), rng.randn(3, 5)
        rng.randn(3, 3, 5), rng.randn(3, 3, 5)
    found = public_trajectories(SETTINGS, "train", 2, seed=7)
    np.testing.assert_array_equal(found.charges[1], charges)
    edges = (charges @ charges.T)[None]
    loc, vel = advance(x[None], (v * 0.5 / np.linalg.norm(v, axis=0))[None], edges, SETTINGS, 40, 10)
    np.testing.assert_allclose(found.loc[1], loc[0, 1:4], rtol=1e-12)
    np.testing.assert_allclose(found.vel[1], vel[0, 1:4], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="shared data absent")
def test_recipe_gives_the_shared_trajectories():
    """They are the validation split of the generator's other data set: seed 42, frames 500 steps apart."""
    shared, settings = np.load(SHARED), Settings(box_size=0.0, length=5000, sample_freq=500)
    sizes = {"train": 50_000, "valid": 2_000, "test": 2_000}
    found = public_trajectories(settings, "valid", 200, seed=42, sizes=sizes)
    np.testing.assert_array_equal(found.charges, shared["charges"][:200])
    assert np.abs(found.loc[:, 0] - shared["loc"][:200, 0]).max() < 1e-9
    # Rounding grows with time where particles pass close to each other, and only there.
    errors = np.abs(found.loc - shared["loc"][:200]).max(axis=(1, 2, 3))
    assert np.quantile(errors, 0.8) < 1e-6


@pytest.mark.parametrize(
    ("settings", "split", "count", "message"),
    [
        (SETTINGS, "training", 1, "split: expected one of"),
        (SETTINGS, "test", 0, "count: expected an integer of at least 1"),
        (SETTINGS, "test", EGNN_SIZES["test"] + 1, "stream: its data have 2000 trajectories for 'test'"),
        (Settings(), "test", 1, "stream: its data are of charged particles in 3 dimensions without walls"),
        (Settings("springs", box_size=0.0), "test", 1, "stream: its data are of charged"),
        (Settings(box_size=0.0, length=10, sample_freq=10), "test", 1, "stream: its data lack the first and last"),
    ],
)
def test_what_the_data_have_not_is_refused(settings, split, count, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        public_trajectories(settings, split, count)
