import pytest

from utils import cli

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
        (("--width", "2.5"), "--width: invalid integer value: '2.5'"),
        (("--rate", "0"), "--rate: expected a finite number above 0, got 0"),
        (("--rate", "nan"), "--rate: expected a finite number above 0, got nan"),
        (("--rate", "inf"), "--rate: expected a finite number above 0, got inf"),
        (("--rate", "fast"), "--rate: invalid number value: 'fast'"),
    ],
)
def test_bad_arguments_are_errors(parse, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        parse(*arguments)
    assert message in capsys.readouterr().err


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
    [(None, 0, ""), (cli.UsageError("no such thing"), 2, "error: no such thing\n"), (KeyboardInterrupt(), 130, "int")],
)
def test_exit_codes(capsys, error, code, message):
    def main():
        if error:
            raise error

    with pytest.raises(SystemExit) as exit_:
        cli.run(main)
    assert exit_.value.code == code
    assert capsys.readouterr().err.startswith(message)


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 / 0)
