from benchmarks.figures import derive
from benchmarks.pictures import draw
from tests.benchmarks.cases import failed, row


def test_pictures_are_drawn_of_what_there_is(tmp_path):
    rows = [row("degree", f"degree {l}", l**2, b, max_degree=l) for b in ("default", "edge") for l in (1, 2)]
    derive(rows, 1e11, on_cpu=True)
    written = draw([*rows, failed("nbody", "128 systems"), row("cloud", "1,024 points")], tmp_path / "speed.md")
    assert written == {"degree": tmp_path / "speed_degree.png"}
    assert written["degree"].read_bytes().startswith(b"\x89PNG")
    assert draw([], tmp_path / "speed.md") == {}
