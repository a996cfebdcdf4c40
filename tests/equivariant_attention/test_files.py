from pathlib import Path

import pytest

from equivariant_attention.files import atomic_write, named


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


def test_failed_writes_name_the_file(tmp_path):
    path = tmp_path / "state"
    with pytest.raises(OSError, match=rf"No space left on device: '{path}'"):
        write_half_and_stop(path, OSError(28, "No space left on device"))
    with pytest.raises(OSError, match=": 'other'"):  # who reads names what is read
        write_half_and_stop(path, OSError(21, "Is a directory", "other"))
    with pytest.raises(OSError, match=r": '/proc/state'"), atomic_write("/proc/state"):
        pass
    with pytest.raises(OSError, match=r"^a message of its own$"), named(path):
        raise OSError("a message of its own")
    with pytest.raises(ZeroDivisionError), named(path):
        raise ZeroDivisionError


def test_a_full_device_is_an_error_and_not_a_short_file(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with pytest.raises(OSError, match="No space left on device: 'full'"), named("full"):
        Path("/dev/full").write_bytes(b"content")
