"""A process that reaches nothing beyond its machine, whoever tries.

python -m tests.network            imports every module of the project, and starts every experiment with its defaults
"""

import importlib
import pkgutil
import socket
import sys
import tempfile

PACKAGES = ("equivariant_attention", "utils", "experiments", "benchmarks")
LOCAL = {"127.0.0.1", "::1", "localhost", "", None}


class NetworkAccessError(AssertionError):
    """Not an OSError, which code that expects broken networks would catch."""


def forbid(setattr=setattr):
    """From now on, connecting to another machine, or asking for its address, raises NetworkAccessError."""

    def guarded(function, host_of):
        def call(*arguments, **options):
            if (host := host_of(*arguments)) not in LOCAL:
                raise NetworkAccessError(f"tried to reach {host}")
            return function(*arguments, **options)

        return call

    def of_socket(its, address, *_):
        return None if its.family not in (socket.AF_INET, socket.AF_INET6) else address[0]

    for name in ("connect", "connect_ex"):
        setattr(socket.socket, name, guarded(getattr(socket.socket, name), of_socket))
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        setattr(socket, name, guarded(getattr(socket, name), lambda host, *_: host))


def import_unless_optional(name):
    """Import a module, if what it needs of others is installed."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] in PACKAGES:
            raise


def main():
    """Import everything, then train a step of each experiment's default preset."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.endswith("__main__"):
                import_unless_optional(module.name)
    from tests.experiments.runs import TINY

    with tempfile.TemporaryDirectory() as folder:
        for experiment, flags in TINY.items():
            run = importlib.import_module(f"experiments.{experiment}.run")
            data = ["--data", f"{folder}/data"] if experiment == "nbody" else []
            run.main([*flags, *data, "--num_epochs", "1", "--output", f"{folder}/{experiment}"])


if __name__ == "__main__":
    forbid()
    sys.exit(main())
