"""The folder of one run: its configuration, and that no other process writes there."""

from __future__ import annotations

import itertools
import os
import platform
import secrets
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from utils.cli import UsageError
from utils.files import read_json, write_json

try:
    import fcntl
except ImportError:  # Windows: folders are not locked there
    fcntl = None  # type: ignore[assignment]

CONFIG, LOCK = "config.json", "lock"


class Run:
    """A run's folder, locked against other processes until `close` or the end of this one.

    Use as a context manager. Made by `create` or `reopen`.

    Attributes:
        path: the folder.
        config: what config.json holds: 'id', 'flags' and 'environment'.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.config = path, {}
        self._is_new = not (path / CONFIG).exists()
        self._lock: int | None = _lock(path)

    def write_config(self, flags: Mapping[str, Any]) -> None:
        """Writes `flags`, with a name for the run and the environment it was started in, to config.json."""
        start = {"id": secrets.token_hex(4), "environment": environment()}
        self.config = {**start, **self.config, "flags": dict(flags)}
        write_json(self.path / CONFIG, self.config)

    def discard_if_new(self) -> None:
        """Forgets a run that could not start: the same command, mended, may use the folder."""
        if self._is_new:
            (self.path / CONFIG).unlink()
            (self.path / LOCK).unlink()
            if not any(self.path.iterdir()):
                self.path.rmdir()

    def close(self) -> None:
        """Lets others use the folder. May be called again."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def create(flags: Mapping[str, Any], output: str | None, save_dir: str, name: str) -> Run:
    """Makes the folder of a new run.

    Args:
        flags: what the run is made of, for config.json.
        output: the folder, which must not hold a run; None for `save_dir`/`name`, or `save_dir`/`name`-2, ... if taken.

    Raises UsageError where `output` holds a run, or `name` is no folder's name.
    """
    if output is not None:
        path = Path(output)
        if path.exists() and not path.is_dir():
            raise UsageError(f"--output: expected a folder, got the file {output}")
        path.mkdir(parents=True, exist_ok=True)
    else:
        path = _unique_folder(save_dir, name)
    run = Run(path)
    if (path / CONFIG).exists():
        run.close()
        raise UsageError(f"--output: {path} already holds a run; go on with it by --resume {path}, or name another")
    run.write_config(flags)
    return run


def reopen(path: str) -> Run:
    """Returns the interrupted (or finished) run in the folder `path`. Raises UsageError where there is none."""
    folder = Path(path)
    if not (folder / CONFIG).is_file():
        raise UsageError(f"--resume: {path} holds no run (there is no {CONFIG})")
    run = Run(folder)
    try:
        run.config = _read_config(folder)
    except UsageError:
        run.close()
        raise
    for leftover in folder.rglob(".*.tmp"):  # of an atomic write that a kill cut short
        leftover.unlink()
    return run


def reconcile(
    flags: Mapping[str, Any], given: Mapping[str, Any], stored: Mapping[str, Any], free: Collection[str]
) -> dict[str, Any]:
    """Returns the flags of a resumed run: the stored ones, with those given now that are free to change.

    Args:
        flags: every flag, whatever its value.
        given: flags on the command line.
        stored: flags in the run's config.json.
        free: names of flags that may differ.

    Raises UsageError naming a flag that contradicts the stored one, or that config.json has not or has in excess.
    """
    if unknown := flags.keys() ^ stored.keys():
        raise UsageError(f"--resume: {CONFIG} is of another version, it differs in the flags {sorted(unknown)}")
    for name in sorted(given.keys() - set(free)):
        if stored[name] != given[name]:
            raise UsageError(f"--{name} {given[name]} contradicts the resumed run, which has {stored[name]}")
    return {**stored, **given}


def environment() -> dict[str, Any]:
    """Returns what results depend on besides the flags: versions, kind of machine, number of threads."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = read_json(folder / CONFIG)
    except ValueError as error:
        raise UsageError(f"--resume: {error}") from error
    if not isinstance(config, dict) or {"id", "flags", "environment"} - config.keys():
        raise UsageError(f"--resume: {folder / CONFIG} is not the configuration of a run")
    return config


def _unique_folder(save_dir: str, name: str) -> Path:
    if name in ("", "..") or Path(name).name != name:
        raise UsageError(f"--name: expected the name of a folder, got {name!r}")
    for suffix in itertools.chain([""], (f"-{number}" for number in itertools.count(2))):
        path = Path(save_dir) / f"{name}{suffix}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable")


def _lock(folder: Path) -> int:
    # A record lock, which ends with the process however it ends and is not inherited by data loading workers.
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    if fcntl is not None:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise UsageError(f"{folder} is in use by another process") from error
    return descriptor
