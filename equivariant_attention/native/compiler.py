"""Compiles a C++ file with the compiler of this machine when it is first needed, unless a wheel brought it compiled."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import signal
import sys
import tempfile
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, CalledProcessError, Popen, SubprocessError, TimeoutExpired

# The compiler may reorder sums, as every library for matrix products does; NaN and infinity keep their meaning.
MATH = ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"]
FLAGS = ["-std=c++17", "-O3", *MATH, "-fPIC", "-shared", "-pthread"]
HERE = "-march=native"  # compile for the processor of this machine
SWITCH = "EQUIVARIANT_ATTENTION_COMPILE"
OWN = Path(__file__).parent  # the folder of the headers that every C++ file may include
SECONDS = 300  # after which a compiler is ended
LARGEST_MESSAGE = 2**20  # bytes that a compiler may print before it is ended
SHOWN = 2**12  # bytes of these that an error quotes
ELSEWHERE = "set XDG_CACHE_HOME to a folder of this user from which programs may be run"
PREBUILT = OWN / "prebuilt"  # compiled libraries in some wheels, see setup.py
# The instruction sets that a processor must have for each level that wheels are compiled for, by the names of
# /proc/cpuinfo; the best level comes first.
_AVX2 = frozenset(["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"])
LEVELS = {
    "x86-64-v4": _AVX2.union(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]),
    "x86-64-v3": _AVX2,
    "armv8-a": frozenset(["asimd"]),
}
MACHINES = {"x86_64": ("x86-64-v4", "x86-64-v3"), "aarch64": ("armv8-a",)}  # the levels that wheels of each contain
HUNG: set[str] = set()  # compilers that took too long: this process does not try them again


class BuildError(RuntimeError):
    """There is no compiler, or it does not build the file; the message says what is missing."""


class BuildFailedError(BuildError):
    """A compiler is there, or named by ``CXX``, and something went wrong; the message says what."""


@cache
def library(source: Path) -> ctypes.CDLL:
    """The shared library compiled from a C++ file.

    If the installed wheel contains a library compiled from the same files, for a level that this processor supports,
    that one is loaded. Otherwise the file is compiled by ``$CXX`` (which may have arguments: ``ccache g++``) or ``c++``
    for the processor of this machine, and kept in ``$XDG_CACHE_HOME/equivariant_attention`` or
    ``~/.cache/equivariant_attention``.

    The name of a kept library contains a hash of the file, its headers, the compiler, its flags, the processor and the
    C library, and a hash of its own content. So it is compiled again when any of these changed, when it was cut short
    or altered, and when other users may write to it; but not when it is intact and cannot be loaded (from a folder
    mounted ``noexec``, say), which compiling again would not change. Several processes may compile at the same time.

    Args:
        source: the file; it may include headers of its own folder and of this module's, and the standard library's.

    Raises:
        BuildError: there is no compiler, or ``EQUIVARIANT_ATTENTION_COMPILE=0`` forbids C++.
        BuildFailedError: it cannot be compiled or loaded; the compiler takes longer than 300 s, and is ended with all
            processes that it started; or other users may write to the folder where libraries are kept, and so could
            make this process run code of theirs.
    """
    if os.environ.get(SWITCH) == "0":
        raise BuildError(f"{SWITCH}=0 forbids to build {source.name}")
    for path in _prebuilt(source):
        with suppress(OSError):  # it may need another C library, say
            return ctypes.CDLL(str(path))
    compiler = _compiler()
    try:
        kept = cache_folder() / f"{source.stem}-{_key(compiler, source)}"
        built = _built(kept) or _build(compiler, source, kept)
    except (OSError, SubprocessError) as error:
        raise BuildFailedError(f"{shlex.join(compiler)} does not build {source.name}: {_reason(error)}") from error
    try:
        return ctypes.CDLL(str(built))
    except OSError as error:
        raise BuildFailedError(f"{source.name} is built and cannot be loaded: {error}\n{ELSEWHERE}") from error


def prebuild(source: Path, level: str, folder: Path) -> Path:
    """Compile a C++ file for a wheel.

    Args:
        source: the file.
        level: one of ``LEVELS`` that this machine can compile for.
        folder: the folder to write to; it is made if it does not exist.

    Returns:
        the path of the library. If it lies in ``PREBUILT``, :func:`library` loads it instead of compiling.

    Raises:
        BuildError, OSError, subprocess.SubprocessError: it cannot be compiled.
    """
    folder.mkdir(parents=True, exist_ok=True)
    built = folder / _name_for(source, level)
    _run([*_compiler(), *FLAGS, f"-march={level}", "-o", str(built), str(source)])
    return built


def _prebuilt(source: Path) -> list[Path]:
    """Libraries of a wheel that were compiled from this source and run on this processor, the best first."""
    if not PREBUILT.is_dir():
        return []
    names = [_name_for(source, level) for level, needed in LEVELS.items() if needed <= _abilities()]
    return [PREBUILT / name for name in names if (PREBUILT / name).is_file()]


def _name_for(source: Path, level: str) -> str:
    content = b"\n".join([*_texts(source), *map(os.fsencode, FLAGS)])
    return f"{source.stem}-{level}-{hashlib.sha256(content).hexdigest()[:16]}.so"


@cache
def _abilities() -> frozenset[str]:
    """The instruction sets of this processor, by their names in /proc/cpuinfo; empty where there is no such file."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


def _compiler() -> list[str]:
    """The path of the compiler, then the arguments that ``$CXX`` gives it."""
    name = os.environ.get("CXX") or "c++"
    try:
        command = [name] if shutil.which(name) else shlex.split(name)
    except ValueError as error:
        raise BuildFailedError(f"the environment variable CXX is no command: {error}, got {name!r}") from error
    path = shutil.which(command[0]) if command else None
    if path is None:
        expected = BuildFailedError if os.environ.get("CXX") else BuildError
        raise expected(f"there is no C++ compiler {name!r} (the environment variable CXX names another)")
    return [path, *command[1:]]


def cache_folder() -> Path:
    """The folder where what this machine makes is kept, which is made if it does not exist.

    Raises:
        BuildFailedError: there is no home folder, or other users may write to it.
        OSError: it cannot be made.
    """
    folder = _caches() / "equivariant_attention"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_own(folder):
        raise BuildFailedError(
            f"{folder} must belong to this user, and nobody else may write to it: libraries are run from there"
        )
    return folder


def _caches() -> Path:
    """The user's folder for caches. A relative ``$XDG_CACHE_HOME`` is ignored, as the XDG standard demands."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return given
    with suppress(RuntimeError):  # no $HOME, and a user without an account, as in containers
        if Path.home().is_absolute():
            return Path.home() / ".cache"
    raise BuildFailedError(f"this user has no home folder to keep what is built: {ELSEWHERE}")


def _is_own(path: Path) -> bool:
    """Whether only this user may write to a path; true on systems without POSIX permissions."""
    status = path.stat()
    return os.name != "posix" or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)


def _key(compiler: list[str], source: Path) -> str:
    # With -### the compiler prints the commands that it would run, which say what -march=native stands for.
    command = [*compiler, *FLAGS, HERE, "-###", "-S", "-o", os.devnull, "-x", "c++", os.devnull]
    told = [_run([*compiler, "--version"]), _run(command)]
    names = [os.fsencode(name) for name in (*compiler, *FLAGS, HERE, *platform.libc_ver())]
    return hashlib.sha256(b"\n".join([*_texts(source), *names, *told])).hexdigest()[:16]


def _texts(source: Path) -> list[bytes]:
    """The contents of all files that a library is compiled from: the source and the headers that it may include."""
    headers = sorted((path.name, path) for folder in {OWN, source.parent} for path in folder.glob("*.hpp"))
    return [path.read_bytes() for path in (source, *(header for _, header in headers))]


def _built(name: Path) -> Path | None:
    """The library that was compiled before, if it is intact and no other user may write to it."""
    libraries = name.parent.glob(f"{name.name}-*.so")
    return next((built for built in libraries if _is_own(built) and built == _named(name, built)), None)


@cache
def _announce() -> None:
    """Say once, on a terminal only, why nothing seems to happen; elsewhere a program may parse what is printed."""
    if sys.stderr is not None and sys.stderr.isatty():
        print("equivariant_attention: building C++ kernels once, about 20 s ...", file=sys.stderr, flush=True)


def _build(compiler: list[str], source: Path, name: Path) -> Path:
    _announce()
    logging.getLogger(__name__).info("building %s with %s, once: some seconds", source.name, shlex.join(compiler))
    with tempfile.TemporaryDirectory(dir=name.parent) as folder:
        unfinished = Path(folder) / f"{name.name}.so"
        _run([*compiler, *FLAGS, HERE, "-o", str(unfinished), str(source)])
        unfinished.chmod(0o700)
        return unfinished.replace(_named(name, unfinished))


def _named(name: Path, content: Path) -> Path:
    """The file name of a library: its name, then a hash of its content, which reveals one cut short or altered."""
    return name.with_name(f"{name.name}-{hashlib.sha256(content.read_bytes()).hexdigest()[:16]}.so")


def _run(command: list[str]) -> bytes:
    """Run a command and return what it prints; end it and its children if it takes too long or prints too much."""
    if command[0] in HUNG:
        raise BuildFailedError(f"{command[0]} has been waited for in vain, {SECONDS} s")
    try:
        process = Popen(command, bufsize=0, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, start_new_session=True)
    except OSError as error:
        raise BuildFailedError(f"{command[0]} cannot be run: {error}") from error
    said = bytearray()
    listener = threading.Thread(target=_listen, args=(process, said), daemon=True)
    listener.start()
    try:
        process.wait(SECONDS)
    except TimeoutExpired:
        HUNG.add(command[0])
        raise
    finally:
        _end(process)
        listener.join(5)  # not forever: a child that left the process group may hold the pipe open
    if len(said) > LARGEST_MESSAGE:
        raise BuildFailedError(f"{command[0]} says more than {LARGEST_MESSAGE} bytes: {_start(said)}")
    if process.returncode:
        raise CalledProcessError(process.returncode, command, bytes(said))
    return bytes(said)


def _listen(process: Popen[bytes], said: bytearray) -> None:
    assert process.stdout is not None
    with process.stdout as stdout:
        while chunk := stdout.read(2**16):
            said += chunk
            if len(said) > LARGEST_MESSAGE:
                _end(process)
                return


def _end(process: Popen[bytes]) -> None:
    """Kill a process and its process group."""
    if os.name != "posix":
        process.kill()
    else:
        with suppress(ProcessLookupError, PermissionError):  # they have ended already
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _reason(error: Exception) -> str:
    said = getattr(error, "output", None)
    remedy = f"\n{ELSEWHERE}" if isinstance(error, OSError) else ""
    return f"{error}" + (f"\n{_start(said)}" if said else "") + remedy


def _start(said: bytes | bytearray) -> str:
    return said[:SHOWN].decode(errors="replace")
