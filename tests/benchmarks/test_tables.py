import pytest

from benchmarks.tables import duration, size


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.345, "12.3 s"), (0.7, "700 ms"), (2.5e-3, "2.5 ms"), (4e-7, "0.4 µs"), (1234, "1234 s")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(0.4e9, "400 MB"), (1.5e9, "1.5 GB"), (0, "0 B"), (1234, "1.23 kB")])
def test_size(number, text):
    assert size(number) == text
