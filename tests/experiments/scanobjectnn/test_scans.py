import numpy as np
import pytest

from experiments.scanobjectnn.scans import (
    CLASSES,
    NOISE,
    POINTS,
    SHAPES,
    block,
    extent,
    is_seen,
    make_scans,
    on_surface,
    post,
    room,
    stacked,
)


@pytest.fixture(scope="module")
def scans():
    return make_scans(2 * len(CLASSES), seed=0, part=0)


def test_scans_are_finite_and_of_all_classes(scans):
    assert scans.points.shape == (2 * len(CLASSES), POINTS, 3)
    assert scans.points.dtype == np.float32
    assert np.isfinite(scans.points).all()
    assert np.abs(scans.points).max() < 5
    np.testing.assert_array_equal(scans.labels, [*range(len(CLASSES))] * 2)


def test_the_same_seed_and_part_make_the_same_scans_however_many(scans):
    fewer = make_scans(5, seed=0, part=0)
    np.testing.assert_array_equal(fewer.points, scans.points[:5])
    np.testing.assert_array_equal(fewer.on_object, scans.on_object[:5])
    for other in (make_scans(5, seed=0, part=1), make_scans(5, seed=1, part=0)):
        assert (other.points != fewer.points).all(axis=(1, 2)).all()


def test_objects_stand_on_the_floor_and_there_is_background_beside_them(scans):
    assert scans.points[..., 2].min() > -10 * NOISE
    shares = scans.on_object.mean(axis=1)
    assert shares.min() >= 0.7
    assert 0.75 < shares.mean() < 0.95
    assert (shares < 1).any()


@pytest.mark.parametrize("name", CLASSES)
def test_furniture_stands_on_zero_and_a_camera_sees_a_part_of_it(name):
    rng = np.random.default_rng(0)
    for _ in range(5):
        solids = stacked(SHAPES[name](rng))
        low, high = extent(solids)
        assert low[2] == pytest.approx(0, abs=1e-12)
        assert 0.3 < (high - low).max() < 2.5
        points = on_surface(solids, 500, rng)
        seen = is_seen(points, np.array([1.0, -6.0, 4.0]), solids)
        assert 0.1 < seen.mean() < 0.8


def test_points_are_on_the_surfaces_in_proportion_to_their_areas():
    solids = stacked([block(2, 1, 1), post(0.5, 1, x=3)])
    points = on_surface(solids, 20_000, np.random.default_rng(0))
    of_box = points[:, 0] < 2
    assert of_box.mean() == pytest.approx(10 / (10 + 1.5 * np.pi), abs=0.01)
    box = np.abs(points[of_box] - (0, 0, 0.5)) / (1, 0.5, 0.5)
    np.testing.assert_allclose(box.max(axis=1), 1, rtol=1e-12)
    assert (box[:, 0] > 1 - 1e-9).mean() == pytest.approx(0.2, abs=0.01)
    round_ = (points[~of_box] - (3, 0, 0.5)) / 0.5
    radius, height = np.hypot(round_[:, 0], round_[:, 1]), np.abs(round_[:, 2])
    np.testing.assert_allclose(np.maximum(radius, height), 1, rtol=1e-12)
    assert (height > 1 - 1e-9).mean() == pytest.approx(1 / 3, abs=0.02)
    assert (radius[height > 1 - 1e-9] ** 2).mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("make", [lambda: block(1, 1, 1, z=-0.5), lambda: post(0.5, 1, z=-0.5)])
def test_what_faces_the_camera_is_seen_and_the_rest_is_not(make):
    solids, camera = stacked([make()]), np.array([0.1, -5.0, 0.05])
    points = on_surface(solids, 1000, np.random.default_rng(0))
    seen = is_seen(points, camera, solids)
    towards = points[:, 1] < -0.11  # of the cylinder, what is before the tangents from the camera
    assert seen[towards & (np.abs(points[:, 2]) < 0.5) & (np.abs(points[:, 0]) < 0.45)].all()
    assert not seen[points[:, 1] > 0.1].any()


@pytest.mark.parametrize("make", [block, lambda *size: post(size[0] / 2, size[2])])
def test_what_is_behind_another_is_hidden(make):
    wall = [block(4, 0.1, 1, y=2)]
    solids = stacked([make(1, 1, 1), *wall])
    camera = np.array([0.0, -3.0, 0.5])
    points = np.array([[0.0, 1.95, 0.5], [1.9, 1.95, 0.5], [-1.9, 1.95, 0.9], [0.2, 1.95, 0.3]])
    np.testing.assert_array_equal(is_seen(points, camera, solids), [False, True, True, False])
    assert is_seen(points, camera, stacked(wall)).all()


def test_rooms_have_a_floor_below_and_maybe_a_wall_behind():
    furniture = stacked([block(1, 1, 1)])
    numbers = set()
    for seed in range(20):
        background = room(furniture, np.random.default_rng(seed))
        low, high = background.centre - background.half, background.centre + background.half
        numbers.add(len(high))
        assert high[0, 2] == pytest.approx(0, abs=1e-12)
        assert (low[0, :2] < -0.5).all()
        assert (high[0, :2] > 0.5).all()
        assert (low[1:, 1] > 0.5).all()
    assert numbers == {1, 2}
