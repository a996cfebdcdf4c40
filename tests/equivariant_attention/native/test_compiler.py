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


def test_what_cannot_be_loaded_is_built_again(source):
    library(source)
    (path,) = built(source)
    path.unlink()
    path.write_bytes(b"not a library")
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
