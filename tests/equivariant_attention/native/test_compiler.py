import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from equivariant_attention.native import compiler
from equivariant_attention.native.compiler import BuildError, BuildFailedError, library

pytestmark = pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "c++")), reason="there is no C++ compiler")

on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="levels are those of x86-64")


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(compiler.SWITCH, raising=False)
    path = tmp_path / "answer.cpp"
    path.write_text('extern "C" int answer() { return 42; }')
    library.cache_clear()
    monkeypatch.setattr(compiler, "HUNG", set())
    yield path
    library.cache_clear()


def built(source):
    return sorted((source.parent / "cache" / "equivariant_attention").iterdir())


@pytest.fixture
def fake(source, monkeypatch):
    """Makes a compiler of a shell script, which may go on as the true one."""

    def make(script):
        path = source.parent / "compiler"
        path.write_text(f"#!/bin/sh\ncompiler={shlex.quote(shutil.which('c++'))}\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))

    return make


def test_it_is_built_once(source):
    assert library(source).answer() == 42
    (first,) = built(source)
    made = first.stat().st_mtime_ns
    library.cache_clear()
    assert library(source).answer() == 42
    assert built(source) == [first]
    assert first.stat().st_mtime_ns == made


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_person_is_told_once_that_something_is_built(source, capsys, monkeypatch, is_seen):
    compiler._announce.cache_clear()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_seen)
    other = source.with_name("other.cpp")
    shutil.copy(source, other)
    for path in (source, other, source):
        library(path)
    expected = "equivariant_attention: building C++ kernels once, about 20 s ...\n"
    assert capsys.readouterr() == ("", expected * is_seen)


@pytest.fixture
def wheel(source, monkeypatch):
    """A wheel has the answer, 42 at every level; what is built here is another."""
    folder = source.parent / "prebuilt"
    levels = {level: compiler.prebuild(source, level, folder) for level in compiler.MACHINES["x86_64"]}
    monkeypatch.setattr(compiler, "PREBUILT", folder)

    def chosen(abilities):
        monkeypatch.setattr(compiler, "_abilities", lambda: frozenset(abilities))
        library.cache_clear()
        return Path(library(source)._name)

    return levels, chosen


@on_x86
def test_what_a_wheel_has_is_chosen_by_what_the_processor_can_do(wheel, source):
    (levels, chosen), v4, v3 = wheel, compiler.LEVELS["x86-64-v4"], compiler.LEVELS["x86-64-v3"]
    assert chosen(v4) == levels["x86-64-v4"]
    assert chosen(v4 - {"avx512vl"}) == chosen(v3) == levels["x86-64-v3"]
    assert not (source.parent / "cache").exists()  # nothing was built
    assert chosen(v3 - {"fma"}) == chosen([]) == built(source)[0]
    levels["x86-64-v4"].unlink()
    assert chosen(v4) == levels["x86-64-v3"]


@on_x86
def test_what_a_wheel_has_of_another_source_is_not_taken(wheel, source):
    (levels, chosen), every = wheel, compiler.LEVELS["x86-64-v4"]
    assert chosen(every) == levels["x86-64-v4"]
    header = source.with_name("more.hpp")
    header.write_text("// a header that it may include")
    assert chosen(every) == built(source)[0]
    header.unlink()
    assert chosen(every) == levels["x86-64-v4"]
    source.write_text('extern "C" int answer() { return 43; }')
    assert chosen(every).parent.name == "equivariant_attention"


@on_x86
def test_what_a_wheel_has_and_cannot_be_loaded_is_built(source, monkeypatch):
    folder = source.parent / "prebuilt"
    compiler.prebuild(source, "x86-64-v3", folder).write_bytes(b"for another system")
    monkeypatch.setattr(compiler, "PREBUILT", folder)
    monkeypatch.setattr(compiler, "_abilities", lambda: compiler.LEVELS["x86-64-v3"])
    assert library(source).answer() == 42
    assert len(built(source)) == 1


@pytest.mark.parametrize(("machine", "told"), [("x86_64", "flags\t\t:"), ("aarch64", "Features\t:")])
def test_levels_are_those_of_the_machine(source, machine, told, monkeypatch):
    """As Linux tells what a processor can do: of another machine there is none."""
    levels = compiler.MACHINES[machine]
    names = " ".join(set().union(*(compiler.LEVELS[level] for level in levels)))
    folder = source.parent / "prebuilt"
    folder.mkdir()
    for level in compiler.LEVELS:
        (folder / compiler._name_for(source, level)).touch()
    monkeypatch.setattr(compiler, "PREBUILT", folder)
    with monkeypatch.context() as context:
        context.setattr(Path, "read_text", lambda path: f"processor\t: 0\n{told} fp {names}\n")
        compiler._abilities.cache_clear()
        found = compiler._abilities()
    compiler._abilities.cache_clear()
    monkeypatch.setattr(compiler, "_abilities", lambda: found)
    assert compiler._prebuilt(source) == [folder / compiler._name_for(source, level) for level in levels]


def test_this_processor_is_asked(source):
    compiler._abilities.cache_clear()
    assert isinstance(compiler._abilities(), frozenset)
    if sys.platform == "linux" and platform.machine() == "x86_64":
        assert "sse2" in compiler._abilities()


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
    with pytest.raises(BuildError, match=r"does not build answer\.cpp(.|\n)*set XDG_CACHE_HOME"):
        library(source)


# -------------------------------------------------------------------------------------- compilers that misbehave


def test_a_compiler_may_have_arguments(source, fake, monkeypatch):
    fake('[ "$1" = -DANSWER=42 ] && exec $compiler "$@"')
    source.write_text('extern "C" int answer() { return ANSWER; }')
    path = source.parent / "with space"
    (source.parent / "compiler").rename(path)
    for command in (f"'{path}' -DANSWER=42", f"{shlex.quote(str(path))} '-DANSWER=42'"):
        library.cache_clear()
        monkeypatch.setenv("CXX", command)
        assert library(source).answer() == 42
    fake('exec $compiler -DANSWER=43 "$@"')
    (source.parent / "compiler").rename(path)
    library.cache_clear()
    monkeypatch.setenv("CXX", str(path))
    assert library(source).answer() == 43


@pytest.mark.parametrize("command", ["'c++", "ccache-that-is-not-here c++", " "])
def test_what_is_no_command_is_refused(source, monkeypatch, command):
    monkeypatch.setenv("CXX", command)
    with pytest.raises(BuildFailedError, match="CXX"):
        library(source)


def test_an_empty_variable_names_no_compiler(source, monkeypatch):
    monkeypatch.setenv("CXX", "")
    assert library(source).answer() == 42


def test_messages_need_not_be_utf8(source, fake):
    fake('printf "\\374bersetzer\\n" >&2; exec $compiler "$@"')
    assert library(source).answer() == 42
    library.cache_clear()
    source.write_text("no such code")
    with pytest.raises(BuildFailedError, match="\N{REPLACEMENT CHARACTER}bersetzer"):
        library(source)


@pytest.mark.parametrize("when", ["--version", "-o"])
def test_messages_without_end(source, fake, monkeypatch, when):
    monkeypatch.setattr(compiler, "LARGEST_MESSAGE", 2**17)
    fake(f'case "$*" in *{when}*) exec yes "a warning";; esac; exec $compiler "$@"')
    with pytest.raises(BuildFailedError, match="says more than 131072 bytes: a warning") as raised:
        library(source)
    assert len(str(raised.value)) < 2 * compiler.SHOWN
    assert not list((source.parent / "cache").rglob("*.so"))


def is_running(pid):
    """Whether a process does more than wait for its parent to take notice of its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="processes are looked up in /proc")
@pytest.mark.parametrize("hangs", [True, False])
def test_nothing_is_left_running(source, fake, monkeypatch, hangs):
    """Of a compiler that hangs, nor of one that builds and leaves what it started."""
    pid = source.parent / "pid"
    fake(f'sleep 60 & echo $! > {pid}; {"wait" if hangs else """$compiler "$@" """}')
    if hangs:
        monkeypatch.setattr(compiler, "SECONDS", 0.5)
        with pytest.raises(BuildFailedError, match=r"timed out after 0\.5 seconds"):
            library(source)
    else:
        assert library(source).answer() == 42
    deadline = time.monotonic() + 10
    while is_running(int(pid.read_text())) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(int(pid.read_text()))


def test_a_compiler_that_hung_is_not_waited_for_again(source, fake, monkeypatch):
    monkeypatch.setattr(compiler, "SECONDS", 0.3)
    asked = source.parent / "asked"
    fake(f"echo >> {asked}; sleep 60")
    for _ in range(2):
        with pytest.raises(BuildFailedError, match=r"timed out|in vain"):
            library(source)
    assert asked.read_text() == "\n"


def test_a_compiler_that_is_no_program(source, monkeypatch):
    path = source.parent / "compiler"
    path.write_bytes(b"\x7fELF no program")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    with pytest.raises(BuildFailedError, match="compiler cannot be run: "):
        library(source)


# ------------------------------------------------------------------------------------------- folders that misbehave


def test_what_cannot_be_loaded_is_not_built_again(source, monkeypatch):
    """As in a folder mounted noexec."""

    def refused(path):
        raise OSError(f"{path}: failed to map segment from shared object")

    with monkeypatch.context() as m:
        m.setattr(ctypes, "CDLL", refused)
        for _ in range(2):
            with pytest.raises(BuildFailedError, match=r"failed to map segment(.|\n)*set XDG_CACHE_HOME"):
                library(source)
            m.setattr(compiler, "_build", None)
    assert len(built(source)) == 1
    assert library(source).answer() == 42


@pytest.mark.parametrize("given", [None, "", "caches", "./caches"])
def test_without_a_home(source, monkeypatch, given):
    """A relative folder counts as none: it would be another from wherever a process is started."""

    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.chdir(source.parent)
    monkeypatch.setattr(compiler.Path, "home", home)
    monkeypatch.setenv("XDG_CACHE_HOME", given) if given is not None else monkeypatch.delenv("XDG_CACHE_HOME")
    with pytest.raises(BuildFailedError, match="no home folder to keep what is built: set XDG_CACHE_HOME"):
        library(source)
    assert [*source.parent.iterdir()] == [source]


def test_a_relative_folder_counts_as_none(source, monkeypatch):
    monkeypatch.chdir(source.parent)
    monkeypatch.setenv("XDG_CACHE_HOME", "caches")
    monkeypatch.setattr(compiler.Path, "home", lambda: source.parent)
    assert library(source).answer() == 42
    assert (source.parent / ".cache" / "equivariant_attention").is_dir()
    assert not (source.parent / "caches").exists()


def test_a_folder_that_goes_while_it_builds(source, fake):
    folder = source.parent / "cache"
    fake(f'$compiler "$@"; status=$?; case "$*" in *-o*answer.cpp*) rm -r {folder};; esac; exit $status')
    with pytest.raises(BuildFailedError, match=r"does not build answer\.cpp"):
        library(source)
    fake('exec $compiler "$@"')
    assert library(source).answer() == 42


def test_a_disk_that_is_full(source, fake):
    fake('case "$*" in *answer.cpp*) echo "No space left on device" >&2; exit 1;; esac; exec $compiler "$@"')
    with pytest.raises(BuildFailedError, match="No space left on device"):
        library(source)
    assert built(source) == []
