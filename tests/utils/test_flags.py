"""Command lines and files of configurations."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict, replace
from typing import Annotated, Literal

import pytest
from pydantic import AfterValidator, AliasChoices, Field
from pydantic.dataclasses import dataclass

from utils.cli import UsageError
from utils.config import RULES, Config, Count, Folder, Fraction, Free, Positive
from utils.flags import CommandLine, free_fields, make_parser, read_as


def even(text):
    if int(text) % 2:
        raise ValueError(f"expected an even number, got {text}")
    return text


@dataclass(frozen=True, kw_only=True, config=RULES)
class Model:
    """What predicts."""

    width: Annotated[Count, Field(validation_alias=AliasChoices("width", "breadth"))] = 2
    """channels, of which 100% are scalars"""
    rate: Positive = 0.5
    kind: Literal["none", "some"] = "some"
    log: bool = False
    decay: Free[Fraction | None] = None
    place: Folder | None = None
    code: Annotated[str, AfterValidator(even)] = "2"


@dataclass(frozen=True, kw_only=True, config=RULES)
class Line(Config, Model):
    """All there is to say."""

    recipe: str | None = None

    @staticmethod
    def implied(given):
        return {"kind": "none"} if "place" in given else {}


SMALL = Line()
RECIPES = {"fast": {"rate": 0.9}, "slow": {"rate": 0.01}}
COMMAND_LINE = CommandLine("Trains.", {"small": SMALL, "large": replace(SMALL, width=64, rate=0.1)}, RECIPES)


def test_first_preset_without_arguments():
    config, given = COMMAND_LINE.parse([])
    assert config == replace(SMALL, preset="small")
    assert given == {}


@pytest.mark.parametrize(
    "words", ["--preset large --width 3", "--width 3 --preset large", "--breadth=3 --preset=large"]
)
def test_explicit_flag_wins(words):
    config, given = COMMAND_LINE.parse(words.split())
    assert (config.preset, config.width, config.rate) == ("large", 3, 0.1)
    assert given == {"preset": "large", "width": 3}


@pytest.mark.parametrize(("words", "rate"), [("", 0.1), ("--recipe fast", 0.9), ("--recipe fast --rate 0.3", 0.3)])
def test_a_recipe_is_between_preset_and_command_line(words, rate):
    config, _ = COMMAND_LINE.parse(["--preset", "large", *words.split()])
    assert (config.width, config.rate) == (64, rate)


def test_flags_may_say_something_of_others():
    config, given = COMMAND_LINE.parse(["--place", "here"])
    assert (config.kind, given) == ("none", {"place": "here"})


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("--width 3", 3), ("--rate 3", 3.0), ("--rate 1e-5", 1e-5), ("--log", True), ("--no-log", False),
        ("--kind none", "none"), ("--decay 0.5", 0.5), ("--decay none", None), ("--place=-x", "-x"), ("--place 5", "5"),
        ("--code 4", "4"),
    ],
)  # fmt: skip
def test_words_become_values(words, value):
    _, given = COMMAND_LINE.parse(words.split())
    assert [*given.values()][:1] == [value]
    assert type(next(iter(given.values()))) is type(value)


@pytest.mark.parametrize(
    ("words", "argument"),
    [
        ("--preset huge", "--preset"), ("--recipe huge", "--recipe"), ("--width 0", "--width"),
        ("--width 2.5", "--width"), ("--width none", "--width"), ("--width", "--width"),
        (f"--width {'9' * 30}", "--width"),
        (f"--width {'9' * 5000}", "--width"),
        ("--rate 0", "--rate"), ("--rate nan", "--rate"), ("--rate inf", "--rate"),
        ("--rate fast", "--rate"), ("--kind all", "--kind"), ("--decay 1", "--decay"), ("--decay 0", "--decay"),
        ("--decay nan", "--decay"), ("--code 3", "--code"), ("--log=1", "--log"),
        ("--widht 3", "--widht"), ("--wid 3", "--wid"), ("stray", "stray"),  # no abbreviations
    ],
)  # fmt: skip
def test_wrong_words_are_refused_in_a_line_that_names_the_flag(words, argument):
    with pytest.raises(UsageError, match=rf"^(unrecognized arguments: )?{argument}\b") as caught:
        COMMAND_LINE.parse(words.split())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_what_was_expected_and_what_came():
    for words, message in (
        ("--num_epochs 0", "--num_epochs: expected a number greater than or equal to 1, got 0"),
        ("--num_epochs x", "--num_epochs: expected a valid integer, got x"),
        ("--kind all", "--kind: expected 'none' or 'some', got all"),
        ("--code 3", "--code: expected an even number, got 3"),
    ):
        with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
            COMMAND_LINE.parse(words.split())


def test_help_shows_every_flag_and_the_presets():
    shown = COMMAND_LINE.parser().format_help()
    assert "channels, of which 100% are scalars" in shown
    assert "--breadth WIDTH" in shown
    assert "--place FOLDER" in shown
    presets, recipes = (part.splitlines() for part in shown.partition("defaults:\n")[2].split("\n\nrecipes:\n"))
    assert [line.split() for line in presets[:3]] == [
        ["small", "large"],
        ["--width", "2", "64"],
        ["--rate", "0.5", "0.1"],
    ]
    assert len(presets) == len(asdict(SMALL)) - 1  # its first line, without preset and recipe
    assert [line.split() for line in recipes] == [["fast", "slow"], ["--rate", "0.9", "0.01"]]


STORED = {**asdict(SMALL), "preset": "small"}


@pytest.mark.parametrize("change", [{}, {"width": 3, "rate": 3, "place": "-x", "log": True, "recipe": "fast"}])
def test_a_file_holds_what_a_command_line_gives(change):
    assert asdict(COMMAND_LINE.read({**STORED, **change})) == {**STORED, **change}


@pytest.mark.parametrize(
    "change",
    [
        {"width": "3"}, {"width": 0}, {"width": None}, {"width": True}, {"width": 3.5}, {"width": 2**70},
        {"rate": "0.5"}, {"rate": [1]}, {"rate": float("nan")}, {"log": 1}, {"log": "true"},
        {"place": 5}, {"place": []},
        {"decay": "none"}, {"decay": 1.0}, {"code": "3"}, {"kind": None},
        {"preset": "huge"}, {"preset": None}, {"preset": "x" * 1000}, {"recipe": "huge"}, {"depth": 1},
        {"width": {"a": [None] * 1000}},
    ],
)  # fmt: skip
def test_a_file_is_held_to_the_rules_of_the_command_line(change):
    with pytest.raises(UsageError, match=rf"^{next(iter(change))}: ") as caught:
        COMMAND_LINE.read({**STORED, **change})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_free_fields():
    assert {"decay", "num_epochs", "resume"} < free_fields(Line)
    assert not {"width", "lr", "preset", "output"} & free_fields(Line)


def test_presets_are_checked_as_well():
    with pytest.raises(ValueError, match="width"):
        replace(SMALL, width=0)


def test_a_program_with_positional_arguments():
    @dataclass(frozen=True, kw_only=True, config=RULES)
    class Move:
        """How atoms move."""

        model: str
        """the model"""
        steps: Count = 10
        """how many"""

    parser = make_parser("Moves.", Move, with_defaults=True)
    assert vars(parser.parse_args(["a.pt", "--steps", "3"])) == {"model": "a.pt", "steps": 3}
    assert vars(parser.parse_args(["a.pt"])) == {"model": "a.pt"}
    assert "how many (default: 10)" in parser.format_help()
    with pytest.raises(UsageError, match="model"):
        parser.parse_args([])


def test_types_for_any_parser():
    assert read_as(Count)("5") == 5
    with pytest.raises(argparse.ArgumentTypeError, match="got 0"):
        read_as(Count)("0")
