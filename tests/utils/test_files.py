import pytest

from utils.files import atomic_write, make_folder, read_json, write_json


def test_new_content_replaces_old_only_at_the_end(tmp_path):
    path = tmp_path / "deep" / "folder" / "state"
    with atomic_write(path) as file:
        file.write(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in path.parent.iterdir()] == ["state"]


def write_half_and_stop(path, interruption):
    with atomic_write(path) as file:
        file.write(b"half of the n")
        raise interruption


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_exception_leaves_the_old_file_and_no_temporary_one(tmp_path, interruption):
    path = tmp_path / "state"
    path.write_bytes(b"old")
    with pytest.raises(interruption):
        write_half_and_stop(path, interruption)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_exception_in_the_first_writing_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        write_half_and_stop(tmp_path / "state", RuntimeError)
    assert list(tmp_path.iterdir()) == []


def test_permissions_are_those_of_any_other_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    with atomic_write(tmp_path / "atomic"):
        pass
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_text_is_utf8_with_its_own_line_ends(tmp_path):
    with atomic_write(tmp_path / "table.csv", "w") as file:
        file.write("λ,1\r\nψ,2\n")
    assert (tmp_path / "table.csv").read_bytes() == "λ,1\r\nψ,2\n".encode()


def test_symbolic_link_is_followed(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="mode: expected 'wb' or 'w', got 'a'"), atomic_write(tmp_path / "x", "a"):
        pass
    with pytest.raises(IsADirectoryError, match="expected a file, got a folder"), atomic_write(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_folders_are_made_and_left_empty(tmp_path):
    for _ in range(2):
        assert list(make_folder(tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    for impossible in ("file", "file/below"):
        with pytest.raises(NotADirectoryError, match="file"):
            make_folder(tmp_path / impossible)


def test_json_round_trip(tmp_path):
    obj = {"epochs": [1, 2], "loss": 0.1 + 0.2, "name": "λ", "best": None}
    write_json(tmp_path / "a.json", obj)
    assert read_json(tmp_path / "a.json") == obj


def test_what_json_cannot_hold_does_not_touch_the_file(tmp_path):
    write_json(tmp_path / "a.json", {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"loss": object()})
    assert read_json(tmp_path / "a.json") == {"loss": 1.0}


def test_reading_names_a_file_that_is_not_json(tmp_path):
    (tmp_path / "a.json").write_text('{"loss": 1.')
    with pytest.raises(ValueError, match=r"a\.json"):
        read_json(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")
