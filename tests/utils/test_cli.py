import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest

from utils import cli

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (None, 0, ""),
        (cli.UsageError("no such thing"), 2, "error: no such thing\n"),
        (FloatingPointError("the loss is nan"), 1, "error: the loss is nan\n"),
        (OSError(28, "No space left on device", "last.pt"), 1, "error: last.pt: No space left on device\n"),
        (OSError("no network"), 1, "error: no network\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_exit_codes(capsys, error, code, message):
    def main():
        if error:
            raise error

    with pytest.raises(SystemExit) as exit_:
        cli.run(main)
    assert exit_.value.code == code
    assert capsys.readouterr().err == message


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 / 0)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("too small"), "--width: too small"),
        (ValueError("delta: expected 3"), "--delta_t: expected 3"),
        (ValueError("a.npz: delta: expected 3"), "--width: a.npz: --delta_t: expected 3"),
        (FileExistsError(17, "File exists", "x"), "--width: x: File exists"),
        (OSError(28, "No space left on device"), "--width: [Errno 28] No space left on device"),
        (cli.UsageError("--rate: unknown"), "--rate: unknown"),
    ],
)
def test_errors_of_functions_name_the_flag(error, message):
    with pytest.raises(cli.UsageError) as caught, cli.blame("--width", delta="--delta_t"):
        raise error
    assert str(caught.value) == message


def test_a_program_may_say_its_exit_code():
    for returned, code in ((None, 0), ({"loss": 1.0}, 0), (3, 3), (0, 0)):
        with pytest.raises(SystemExit) as ended:
            cli.run(lambda returned=returned: returned)
        assert ended.value.code == code


def test_help_is_answered_by_the_parser_alone(monkeypatch, capsys):
    parser = ArgumentParser(description="Trains.")
    monkeypatch.setattr("sys.argv", ["run.py", "--preset", "small"])
    cli.answer_help(lambda: parser)
    monkeypatch.setattr("sys.argv", ["run.py", "--preset", "small", "-h"])
    with pytest.raises(SystemExit) as ended:
        cli.answer_help(lambda: parser)
    assert ended.value.code == 0
    assert "Trains." in capsys.readouterr().out


def test_what_is_printed_to_a_pipe_is_there_at_once():
    script = "import os; from utils.cli import run; run(lambda: (print('epoch 1'), os._exit(0)))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert ended.stdout == "epoch 1\n"
