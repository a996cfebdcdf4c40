import argparse
import re
import subprocess
import sys
from argparse import BooleanOptionalAction
from pathlib import Path

import pytest

from utils import cli

ROOT = Path(__file__).parents[2]
PRESETS = {"small": {"width": 2, "rate": 0.5}, "large": {"width": 64, "rate": 0.1}}


@pytest.fixture
def parse():
    parser = cli.make_parser("Trains.", PRESETS)
    parser.add_argument("--width", type=cli.count(1))
    parser.add_argument("--rate", type=cli.positive)
    return lambda *arguments: cli.parse(parser, PRESETS, arguments)


def test_first_preset_without_arguments(parse):
    flags, given = parse()
    assert vars(flags) == {"preset": "small", "width": 2, "rate": 0.5}
    assert given == {}


def test_named_preset(parse):
    assert vars(parse("--preset", "large")[0]) == {"preset": "large", "width": 64, "rate": 0.1}


@pytest.mark.parametrize("arguments", [("--preset", "large", "--width", "3"), ("--width", "3", "--preset", "large")])
def test_explicit_flag_wins(parse, arguments):
    flags, given = parse(*arguments)
    assert (flags.width, flags.rate) == (3, 0.1)
    assert given == {"preset": "large", "width": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--widht", "3"), "unrecognized arguments: --widht"),
        (("--wid", "3"), "unrecognized arguments: --wid"),  # no abbreviations
        (("stray",), "unrecognized arguments: stray"),
        (("--preset", "huge"), "invalid choice: 'huge'"),
        (("--width", "0"), "--width: expected an integer of at least 1, got 0"),
        (("--width", "9" * 30), "--width: expected an integer of at most 2147483647"),
        (("--width", "2.5"), "--width: invalid integer value: '2.5'"),
        (("--rate", "0"), "--rate: expected a finite number above 0, got 0"),
        (("--rate", "nan"), "--rate: expected a finite number above 0, got nan"),
        (("--rate", "inf"), "--rate: expected a finite number above 0, got inf"),
        (("--rate", "fast"), "--rate: invalid number value: 'fast'"),
    ],
)
def test_bad_arguments_are_errors(parse, arguments, message):
    with pytest.raises(cli.UsageError, match=re.escape(message)):
        parse(*arguments)


def test_help_shows_the_presets(parse, capsys):
    with pytest.raises(SystemExit, match="0"):
        parse("--help")
    assert [line.split() for line in capsys.readouterr().out.splitlines()[-3:]] == [
        ["small", "large"],
        ["--width", "2", "64"],
        ["--rate", "0.5", "0.1"],
    ]


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


PRESET = {"width": 2, "rate": 0.5, "name": None, "log": False}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"width": 3, "rate": 1e-5, "name": "-x", "log": True}, None),
        ({"width": "3.5"}, "invalid integer value"),
        ({"width": 0}, "at least 1"),
        ({"width": None}, "no command line gives --width the value None"),
        ({"rate": [1]}, "invalid number value"),
        ({"log": 1}, "explicit argument"),
        ({"preset": "huge"}, "invalid choice"),
    ],
)
def test_stored_flags_are_checked(change, message):
    presets = {"small": PRESET}
    parser = cli.make_parser("Trains.", presets)
    parser.add_argument("--width", type=cli.count(1))
    parser.add_argument("--rate", type=cli.positive)
    parser.add_argument("--name", type=cli.none_or_text)
    parser.add_argument("--log", action=BooleanOptionalAction)
    flags = {"preset": "small", **PRESET, **change}
    if message is None:
        cli.check(parser, presets, flags)
    else:
        with pytest.raises(cli.UsageError, match=message):
            cli.check(parser, presets, flags)


def test_a_recipe_is_between_preset_and_command_line():
    recipes = {"fast": {"rate": 0.9}, "slow": {"rate": 0.01}}
    parser = cli.make_parser("Trains.", PRESETS, recipes)
    parser.add_argument("--width", type=cli.count(1))
    parser.add_argument("--rate", type=cli.positive)
    for arguments, rate in (
        ([], 0.1), (["--recipe", "fast"], 0.9), (["--recipe", "fast", "--rate", "0.3"], 0.3)
    ):  # fmt: skip
        flags, _ = cli.parse(parser, PRESETS, ["--preset", "large", *arguments], recipes)
        assert (flags.width, flags.rate) == (64, rate)
        cli.check(parser, PRESETS, vars(flags), recipes)
    assert "recipes:" in parser.format_help()
    with pytest.raises(cli.UsageError, match="--recipe: invalid choice"):
        cli.parse(parser, PRESETS, ["--recipe", "huge"], recipes)


@pytest.mark.parametrize("text", ["0", "1", "nan", "-0.5"])
def test_fractions(text):
    assert cli.fraction("0.99") == 0.99
    with pytest.raises(argparse.ArgumentTypeError, match=f"above 0 and below 1, got {text}"):
        cli.fraction(text)


def test_none_unsets():
    assert cli.none_or_text("none") is None
    assert cli.none_or_text("file") == "file"


def test_a_program_may_say_its_exit_code():
    for returned, code in ((None, 0), ({"loss": 1.0}, 0), (3, 3), (0, 0)):
        with pytest.raises(SystemExit) as ended:
            cli.run(lambda returned=returned: returned)
        assert ended.value.code == code


def test_help_is_answered_by_the_parser_alone(monkeypatch, capsys):
    parser = cli.make_parser("Trains.", {"small": PRESET})
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


def test_counts_have_a_largest_number():
    assert cli.count(0, 5)("5") == 5
    with pytest.raises(argparse.ArgumentTypeError, match="expected an integer of at most 5, got a larger one"):
        cli.count(0, 5)("6")
