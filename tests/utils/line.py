"""The experiment of test_experiment as a program, for test_distributed to start in several processes."""

from pathlib import Path

from tests.utils.test_experiment import LINE
from utils.cli import run


def main() -> None:
    LINE.main()
    # Where the system does not list them, there is nothing to see.
    threads = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
    assert not {name for name in threads if "gloo" in name}, threads


if __name__ == "__main__":
    run(main)
