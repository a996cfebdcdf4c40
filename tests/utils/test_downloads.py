import errno
import hashlib
import io
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from utils import downloads
from utils.downloads import download

CONTENT = np.random.default_rng(0).bytes(300_000)


class Server(BaseHTTPRequestHandler):
    """Sends CONTENT, but no more than ``limit`` bytes on one connection."""

    limit, ranges, log = len(CONTENT), True, []

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.log.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.ranges else 0
        if self.path != "/file":
            self.send_error(404)
        elif start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
        else:
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            self.wfile.write(CONTENT[start : start + self.limit])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server that the test may change, and its address."""
    monkeypatch.setattr(Server, "log", [])
    http = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


def test_downloads_once(server, tmp_path):
    path = download(f"{server}/file", tmp_path / "new" / "file")
    assert path.read_bytes() == CONTENT
    assert download(f"{server}/file", path) == path
    assert Server.log == [None]
    assert [*path.parent.iterdir()] == [path]


def test_goes_on_where_the_connection_broke(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Server, "limit", 100_000)
    assert download(f"{server}/file", tmp_path / "file").read_bytes() == CONTENT
    assert Server.log == [None, "bytes=100000-", "bytes=200000-"]


def test_goes_on_from_what_an_earlier_call_got(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:1234])
    assert download(f"{server}/file", tmp_path / "file").read_bytes() == CONTENT
    assert Server.log == ["bytes=1234-"]


def test_a_server_that_cannot_go_on_sends_all_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Server, "ranges", False)
    (tmp_path / "file.part").write_bytes(b"other" * 100)
    assert download(f"{server}/file", tmp_path / "file").read_bytes() == CONTENT


def test_what_was_complete_before_it_was_renamed_is_taken(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    assert download(f"{server}/file", tmp_path / "file").read_bytes() == CONTENT


def test_a_connection_that_brings_nothing_ends_it_and_what_came_is_kept(server, tmp_path, monkeypatch):
    (tmp_path / "file.part").write_bytes(CONTENT[:1234])
    monkeypatch.setattr(Server, "limit", 0)
    with pytest.raises(ConnectionError, match=r"ended early. The 1,234 bytes .* run the same again"):
        download(f"{server}/file", tmp_path / "file")
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:1234]


def test_no_network_and_no_such_file_say_what_to_do(server, tmp_path, monkeypatch):
    with pytest.raises(ConnectionError, match=rf"404.*put the file at {tmp_path / 'file'} by other means"):
        download(f"{server}/other", tmp_path / "file")

    def offline(*_, **__):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    with pytest.raises(ConnectionError, match=r"could not be downloaded: .*Temporary failure in name resolution"):
        download("http://nowhere.invalid/file", tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_the_hash_is_checked(server, tmp_path):
    right, wrong, path = hashlib.sha256(CONTENT).hexdigest(), 64 * "0", tmp_path / "file"
    with pytest.raises(ValueError, match=rf"file\.part: expected a file of SHA-256 0+, got {right}; it is removed"):
        download(f"{server}/file", path, sha256=wrong)
    assert not [*tmp_path.iterdir()]
    assert download(f"{server}/file", path, sha256=right) == path
    assert download(f"{server}/file", path, sha256=right) == path
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=r"file: expected a file of SHA-256 .*; remove it and run the same again"):
        download(f"{server}/file", path, sha256=right)


def test_a_full_disk_names_the_file_and_keeps_what_came(server, tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, data):
            if self.tell() + len(data) > 100_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    with monkeypatch.context() as patch:
        patch.setattr(downloads, "open", lambda path, mode: Full(path, mode.replace("b", "")), raising=False)
        with pytest.raises(OSError, match=r"No space left on device: '.*file\.part'"):
            download(f"{server}/file", tmp_path / "file")
    assert 0 < (tmp_path / "file.part").stat().st_size <= 100_000
    assert download(f"{server}/file", tmp_path / "file").read_bytes() == CONTENT
