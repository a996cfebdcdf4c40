"""The experiment of test_experiment as a program, for test_distributed to start in several processes."""

from tests.utils.test_experiment import LINE
from utils.cli import run

if __name__ == "__main__":
    run(LINE.main)
