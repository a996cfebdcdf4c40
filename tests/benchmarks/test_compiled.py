import pytest

from benchmarks import compiled


@pytest.mark.no_cover
def test_compiled_steps_are_timed_beside_those_that_are_not(capsys):
    lines = compiled.main(["degree:degree 1", "--compiler", "eager", "--repeats", "1", "--threads", "1"], tiny=True)
    assert [(line["workload"], line["step"]) for line in lines] == [
        ("degree", "forward"),
        ("degree", "forward+backward"),
    ]
    assert all(float(line["× time"]) > 0 and line["eager"] and line["compiled"] for line in lines)
    assert "GFLOP/s" in capsys.readouterr().out
