from benchmarks import measure


def test_steps_alternate():
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in "AB"}
    times = measure.take_turns(steps, "cpu", repeats=3)
    assert "".join(calls) == "AB" + "AB" * 3
    assert {name: len(its) for name, its in times.items()} == {"A": 3, "B": 3}
    assert min(times["A"]) >= 0


def test_slow_steps_are_called_once(monkeypatch):
    monkeypatch.setattr(measure, "SLOW", 2.0)
    seconds = {"slow": 3.0, "quick": 1.0}
    calls = []
    monkeypatch.setattr(measure, "seconds_of", lambda step, device: seconds[step()])
    steps = {name: lambda name=name: calls.append(name) or name for name in seconds}
    assert measure.take_turns(steps, "cpu", repeats=3) == {"slow": [3.0], "quick": [1.0] * 3}
    assert calls.count("slow") == 1


def test_summary():
    assert measure.summary([3, 1, 8, 2, 4]) == {"median": 3, "min": 1, "max": 8, "count": 5}


def test_matrix_product_rate_is_plausible():
    assert 1e8 < measure.matrix_product_rate("cpu", size=256) < 1e14
