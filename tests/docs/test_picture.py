import importlib.util
from pathlib import Path

PICTURE = Path(__file__).parents[2] / "docs" / "picture.py"


def test_the_picture_can_be_drawn(tmp_path):
    spec = importlib.util.spec_from_file_location("picture", PICTURE)
    picture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(picture)
    picture.main(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
