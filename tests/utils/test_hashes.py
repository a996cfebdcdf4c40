import hashlib
import shutil
import subprocess

import pytest

from utils.hashes import record, sha256, verify


def test_sha256(tmp_path):
    content = b"content" * 300_000
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_what_has_changed_is_named(tmp_path):
    assert not verify(tmp_path / "nowhere")
    for name in ("a", "b c"):
        (tmp_path / name).write_text(name)
    record(tmp_path, ["a", "b c"])
    assert verify(tmp_path)
    (tmp_path / "b c").write_text("b d")
    with pytest.raises(ValueError, match="b c is not as it was written"):
        verify(tmp_path)
    (tmp_path / "a").unlink()
    with pytest.raises(ValueError, match="a is not as it was written"):
        verify(tmp_path)


def test_files_elsewhere_are_not_read(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "SHA256SUMS").write_text(f"{sha256(tmp_path / 'a')}  ../a\n")
    with pytest.raises(ValueError, match="a is not as it was written"):
        verify(tmp_path / "folder")


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no coreutils")
def test_sha256sum_reads_it(tmp_path):
    (tmp_path / "a").write_text("a")
    record(tmp_path, ["a"])
    subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=tmp_path, check=True)
