import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from equivariant_attention.native import compiler
from equivariant_attention.native.compiler import BuildError, library

pytestmark = pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "c++")), reason="there is no C++ compiler")


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(compiler.SWITCH, raising=False)
    path = tmp_path / "answer.cpp"
    path.write_text('extern "C" int answer() { return 42; }')
    library.cache_clear()
    yield path
    library.cache_clear()


def built(source):
    return sorted((source.parent / "cache" / "equivariant_attention").iterdir())


def test_it_is_built_once(source):
    assert library(source).answer() == 42
    (first,) = built(source)
    made = first.stat().st_mtime_ns
    library.cache_clear()
    assert library(source).answer() == 42
    assert built(source) == [first]
    assert first.stat().st_mtime_ns == made


def test_another_source_or_compiler_builds_anew(source, monkeypatch):
    library(source)
    library.cache_clear()
    source.write_text('extern "C" int answer() { return 43; }')
    assert library(source).answer() == 43
    assert len(built(source)) == 2
    library.cache_clear()
    other = source.parent / "other-compiler"
    other.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo other\nexec {shutil.which("c++")} "$@"\n')
    other.chmod(0o755)
    monkeypatch.setenv("CXX", str(other))
    assert library(source).answer() == 43
    assert len(built(source)) == 3


@pytest.mark.parametrize("content", [lambda b: b"not a library", lambda b: b[: len(b) // 2], lambda b: b[:-1] + b"x"])
def test_what_is_not_as_it_was_built_is_built_again(source, content):
    library(source)
    (path,) = built(source)
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(content(whole))
    path.chmod(0o700)
    library.cache_clear()
    assert library(source).answer() == 42
    assert built(source) == [path]
    assert path.read_bytes() == whole


def test_a_library_that_others_may_write_to_is_built_again(source):
    library(source)
    (path,) = built(source)
    made = path.stat().st_mtime_ns
    path.chmod(0o770)
    library.cache_clear()
    assert library(source).answer() == 42
    assert path.stat().st_mtime_ns > made
    assert not path.stat().st_mode & 0o022


def test_a_folder_of_others_is_refused(source, monkeypatch):
    library(source)
    folder = source.parent / "cache" / "equivariant_attention"
    library.cache_clear()
    with monkeypatch.context() as m:
        m.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
        with pytest.raises(BuildError, match=r"cache/equivariant_attention must belong to this user"):
            library(source)
    folder.chmod(0o777)
    with pytest.raises(BuildError, match="nobody else may write to it"):
        library(source)
    folder.chmod(0o700)
    assert library(source).answer() == 42


def test_what_is_built_is_for_its_user_alone(source, monkeypatch):
    before = os.umask(0)
    try:
        library(source)
    finally:
        os.umask(before)
    (path,) = built(source)
    assert not (path.stat().st_mode | path.parent.stat().st_mode) & 0o077
    library.cache_clear()
    assert library(source).answer() == 42


def test_processes_that_build_at_once(source):
    run_alone = (
        "import pathlib, runpy, sys; print(runpy.run_path(sys.argv[1])['library'](pathlib.Path(sys.argv[2])).answer())"
    )
    command = [sys.executable, "-c", run_alone, compiler.__file__, str(source)]
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(subprocess.run, command, capture_output=True) for _ in range(3)]
    assert [run.result().stdout for run in runs] == [b"42\n"] * 3
    assert len(built(source)) == 1


def test_an_error_of_the_compiler_is_told(source):
    source.write_text("no such code")
    with pytest.raises(BuildError, match=r"does not build answer\.cpp(.|\n)*error"):
        library(source)
    assert built(source) == []


def test_without_a_compiler(source, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match=r"there is no C\+\+ compiler 'no-such-compiler'"):
        library(source)


def test_a_variable_forbids_it(source, monkeypatch):
    monkeypatch.setenv("EQUIVARIANT_ATTENTION_COMPILE", "0")
    with pytest.raises(BuildError, match="EQUIVARIANT_ATTENTION_COMPILE=0 forbids"):
        library(source)
    assert not (source.parent / "cache").exists()


def test_without_a_folder_to_keep_it(source, monkeypatch):
    (source.parent / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(source.parent / "file"))
    with pytest.raises(BuildError, match=r"does not build answer\.cpp"):
        library(source)
