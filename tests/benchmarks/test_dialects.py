from benchmarks import dialects
from benchmarks.steps import Setup, build
from benchmarks.work import multiply_adds
from benchmarks.workloads import WORKLOADS


def test_both_dialects_are_timed_in_turn(capsys):
    lines = dialects.main(["--repeats", "1", "--threads", "1"], tiny=True)
    assert [(line["workload"], line["step"]) for line in lines] == [
        (workload, step) for workload in ("protein", "protein-full") for step in ("forward", "forward+backward")
    ]
    assert all({"published", *dialects.LAYOUTS} <= {*line} for line in lines)
    assert "GFLOP/s" in capsys.readouterr().out


def test_networks_of_both_dialects_ask_for_the_same_products():
    for name in ("protein", "protein-full"):
        (case,) = WORKLOADS[name].cases
        published, nvidia = build(Setup(tiny=True), name, case), build(Setup(tiny=True), "nvidia", name)
        assert multiply_adds(*nvidia) == multiply_adds(*published)


def test_six_hundred_residues_are_fully_connected():
    _, graph = build(Setup(), "nvidia", "600 residues")
    assert (graph.num_nodes(), graph.num_edges()) == (600, 359_400)
