"""The folder of one run: its configuration, and that no other process writes there."""

from __future__ import annotations

import itertools
import platform
import secrets
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from utils.cli import UsageError, blame
from utils.files import LOCK, locked, make_folder, read_json, write_json

CONFIG = "config.json"


class Run:
    """A run's folder, locked against other processes until :meth:`close` or the end of this one.

    Use as a context manager. Made by :func:`create` or :func:`reopen`.

    Args:
        path: the folder, which is there.

    Attributes:
        path: the folder.
        config: what config.json holds: ``'id'``, ``'flags'`` and ``'environment'``.

    Raises:
        OSError: from the file system; BlockingIOError where another process has it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.config = path, {}
        self._lock = ExitStack()
        self._lock.enter_context(locked(path))
        self._is_new = not (path / CONFIG).exists()

    def write_config(self, flags: Mapping[str, Any]) -> None:
        """Write config.json: flags, with a name for the run and the environment it was started in.

        Args:
            flags: what the run is made of.
        """
        start = {"id": secrets.token_hex(4), "environment": environment()}
        self.config = {**start, **self.config, "flags": dict(flags)}
        write_json(self.path / CONFIG, self.config)

    def discard_if_new(self) -> None:
        """Forget a run that could not start: the same command, mended, may use the folder."""
        if self._is_new:
            for name in (CONFIG, LOCK):
                (self.path / name).unlink(missing_ok=True)
            if not any(self.path.iterdir()):
                self.path.rmdir()

    def close(self) -> None:
        """Let others use the folder. May be called again."""
        self._lock.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Follower(Run):
    """The run's folder in a process that follows another, which has locked and writes it.

    Args:
        path: the folder.
        config: what config.json holds.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path, self.config, self._is_new, self._lock = path, config, False, ExitStack()

    def write_config(self, flags: Mapping[str, Any]) -> None:
        """Leave that to the other process."""


def create(flags: Mapping[str, Any], output: str | None, save_dir: str, name: str) -> Run:
    """Make the folder of a new run.

    Args:
        flags: what the run is made of, for config.json.
        output: the folder, which must not hold a run; None for SAVE_DIR/NAME, or SAVE_DIR/NAME-2, ... if taken.
        save_dir: SAVE_DIR.
        name: NAME.

    Raises:
        UsageError: ``output`` holds a run, ``name`` is no folder's name, or the folder cannot be written to.
    """
    with blame("--save_dir" if output is None else "--output"):
        run = Run(_unique_folder(save_dir, name) if output is None else make_folder(output))
        try:
            if (run.path / CONFIG).exists():
                raise UsageError(f"{output} already holds a run; go on with it by --resume {output}, or name another")
            run.write_config(flags)
        except BaseException:
            run.discard_if_new()
            run.close()
            raise
    return run


def reopen(path: str) -> Run:
    """The interrupted (or finished) run in a folder.

    Args:
        path: the folder.

    Raises:
        UsageError: it holds no run, another process has it, or it cannot be written to.
    """
    folder = Path(path)
    with blame("--resume"):
        if not (folder / CONFIG).is_file():
            raise UsageError(f"{path} holds no run (there is no {CONFIG})")
        run = Run(make_folder(folder))
        try:
            run.config = _read_config(folder / CONFIG)
            for leftover in folder.rglob(".*.tmp"):  # of an atomic write that a kill cut short
                leftover.unlink()
        except BaseException:
            run.close()
            raise
    return run


def reconcile(
    flags: Mapping[str, Any],
    given: Mapping[str, Any],
    stored: Mapping[str, Any],
    free: Collection[str],
    before: Mapping[str, Any],
) -> dict[str, Any]:
    """The flags of a resumed run: the stored ones, with those given now that are free to change.

    Args:
        flags: every flag, whatever its value.
        given: those on the command line.
        stored: flags in the run's config.json.
        free: names of flags that may differ.
        before: flags that runs of earlier versions lack, and what was done without them.

    Raises:
        UsageError: a flag contradicts the stored one, or config.json has not the same flags.
    """
    stored = {**before, **stored}
    if unknown := flags.keys() ^ stored.keys():
        raise UsageError(f"--resume: {CONFIG} is of another version, it differs in the flags {sorted(unknown)}")
    for name in sorted(given.keys() - set(free)):
        if stored[name] != given[name]:
            raise UsageError(f"--{name} {given[name]} contradicts the resumed run, which has {stored[name]}")
    return {**stored, **given}


def environment() -> dict[str, Any]:
    """What results depend on besides the flags: versions, kind of machine, number of threads."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    kinds = {"id": str, "flags": dict, "environment": dict}
    if not isinstance(config, dict) or not all(isinstance(config.get(name), kind) for name, kind in kinds.items()):
        raise UsageError(f"{path} is not the configuration of a run")
    return config


def _unique_folder(save_dir: str, name: str) -> Path:
    if name in ("", "..") or Path(name).name != name:
        raise UsageError(f"--name: expected the name of a folder, got {name!r}")
    folder = make_folder(save_dir)
    for suffix in itertools.chain([""], (f"-{number}" for number in itertools.count(2))):
        path = folder / f"{name}{suffix}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable")


def without_places(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags of a run as they are given to others, without places of this machine: absolute paths become None.

    Args:
        flags: of the run.
    """
    return {
        name: None if isinstance(value, str) and Path(value).is_absolute() else value for name, value in flags.items()
    }
