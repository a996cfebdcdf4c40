import pytest

from benchmarks.figures import derive
from benchmarks.workloads import BASIS, FORCES, FORCES_TRAINED, FORWARD
from tests.benchmarks.cases import failed, row

RATE = 100e9


def test_goal_and_floor():
    rows = [row("qm9-bonded", "32 molecules"), row("qm9-bonded", "32 molecules", mode=FORWARD)]
    derive(rows, RATE, on_cpu=True)
    assert rows[0]["goal"] == {"seconds": 0.7, "seconds_here": pytest.approx(0.7 * 1.5), "bytes": 0.4e9}
    assert rows[0]["floor"] == pytest.approx((4 * 2e9 + 3 * 1e9) * 2 / RATE)
    assert rows[1]["floor"] == pytest.approx((2e9 + 1e9) * 2 / RATE)
    assert "goal" not in rows[1]


def test_graphs_per_second():
    rows = [
        row("qm9-bonded", "32 molecules", 0.5, graphs=32),
        row("cloud", "1,024 points"),
        failed("nbody", "", graphs=2),
    ]
    derive(rows, RATE, on_cpu=True)
    assert [row.get("graphs_per_second") for row in rows] == [64, None, None]


def test_goals_are_for_a_cpu():
    rows = [row("qm9-bonded", "32 molecules")]
    derive(rows, RATE, on_cpu=False)
    assert "goal" not in rows[0]


def test_ratio_to_the_first_backend():
    rows = [row("nbody", "128 systems"), row("nbody", "128 systems", 3.0, backend="oracle", above=5000)]
    derive(rows, RATE, on_cpu=True)
    assert "to_first" not in rows[0]
    assert rows[1]["to_first"] == {"seconds": 3.0, "bytes": 5.0}


def test_no_ratio_to_a_backend_that_failed():
    rows = [failed("nbody", "128 systems"), row("nbody", "128 systems", backend="oracle")]
    derive(rows, RATE, on_cpu=True)
    assert not any("to_first" in row for row in rows)


def test_growth_with_edges():
    rows = [
        row("scale", "10k edges", edges=10_000),
        row("scale", "1M edges", 120.0, above=90_000, edges=1_000_000),
        failed("scale", "1M edges", backend="oracle"),
    ]
    derive(rows, RATE, on_cpu=True)
    assert rows[0]["per_edge"] == {"seconds": 1e-4, "bytes": 0.1}
    assert rows[1]["per_edge_to_10k"] == {"seconds": pytest.approx(1.2), "bytes": pytest.approx(0.9)}
    assert "per_edge_to_10k" not in rows[0]


def test_growth_with_degree():
    rows = [row("degree", "degree 1"), row("degree", "degree 2", 4.0)]
    rows[1]["multiply_adds"] = {"radial": 9e9, "mixing": 3e9, "radial_shared": 6e9}
    derive(rows, RATE, on_cpu=True)
    assert rows[1]["growth"] == {"seconds": 4.0, "predicted": 3.0}


def test_forces_to_energies():
    rows = [
        row("forces", "8 molecules", 2.0, above=500),
        row("forces", "8 molecules", 3.0, mode=FORCES, above=600),
        row("forces", "8 molecules", 8.0, mode=FORCES_TRAINED),
        failed("forces", "8 molecules", mode=FORCES_TRAINED, backend="oracle"),
    ]
    derive(rows, RATE, on_cpu=True)
    ratios = [row.get("to_energy") for row in rows]
    assert ratios == [None, {"seconds": 1.5, "bytes": 1.2}, {"seconds": 4.0, "bytes": 2.0}, None]


def test_share_of_the_basis():
    rows = [row("basis", "qm9-dense", 0.02, mode=BASIS), row("basis", "qm9-dense")]
    derive(rows, RATE, on_cpu=True)
    assert rows[1]["basis_share"] == 0.02
    assert "floor" not in rows[0]
