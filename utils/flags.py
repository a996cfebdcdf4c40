"""Command lines of configurations: every field of a dataclass is a flag, whose annotation defines what it may be."""

from __future__ import annotations

import argparse
from argparse import ArgumentParser, BooleanOptionalAction
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from inspect import get_annotations
from textwrap import shorten
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from utils.cli import Parser, UsageError
from utils.config import FREE, Config

C = TypeVar("C", bound=Config)
CHOSEN = ("preset", "recipe")  # fields that name the values of others
LONGEST = 200  # characters of a message about what a file holds


def make_parser(description: str, *kinds: type, epilog: str = "", with_defaults: bool = False) -> ArgumentParser:
    """A parser of flags, which gives those on the command line alone.

    Args:
        description: first lines of the help.
        *kinds: dataclasses. Every field is a flag, or where it has no default a positional argument.
        epilog: last lines of the help.
        with_defaults: whether the help of a flag ends with its default.
    """
    parser = Parser(description, epilog=epilog, argument_default=argparse.SUPPRESS)
    for part in (part for kind in kinds for part in reversed(kind.__mro__)):  # of which each has fields of its own
        if names := [name for name in get_annotations(part) if name not in CHOSEN]:
            group = parser.add_argument_group((part.__doc__ or part.__name__).rstrip("."))
            for name in names:
                _add(group, name, part.__pydantic_fields__[name], with_defaults)
    return parser


def _add(group: Any, name: str, field: FieldInfo, with_default: bool) -> None:
    default = f" (default: {field.default})" if with_default and not field.is_required() else ""
    help_ = f"{field.description or ''}{default}".replace("%", "%%")
    if field.annotation is bool:
        group.add_argument(f"--{name}", action=BooleanOptionalAction, help=help_)
        return
    names = [name] if field.is_required() else [f"--{also}" for also in _names(name, field)]
    annotation = _annotation(field)
    group.add_argument(*names, type=read_as(annotation), metavar=_metavar(annotation), help=help_)


def _names(name: str, field: FieldInfo) -> list[str]:
    """The names of a flag: its field's, and those by which it is known elsewhere."""
    return [str(also) for also in field.validation_alias.choices] if field.validation_alias else [name]


def _annotation(field: FieldInfo) -> Any:
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    if get_origin(annotation) is not Literal:
        for part in get_args(annotation):
            yield from _parts(part)


def _metavar(annotation: Any) -> str | None:
    for part in _parts(annotation):
        if get_origin(part) is Literal:
            return f"{{{','.join(map(str, get_args(part)))}}}"
        if isinstance(part, str) and part != FREE:
            return part
    return None


def read_as(annotation: Any) -> Callable[[str], Any]:
    """A converter of a word on the command line, for argparse's ``type``.

    Args:
        annotation: what it is to be, as of a field; 'none' is None where that may be.
    """
    adapter, may_be_none = TypeAdapter(annotation), type(None) in _parts(annotation)

    def convert(word: str) -> Any:
        if may_be_none and word == "none":
            return None
        try:
            return adapter.validate_strings(word)
        except ValidationError as error:
            raise argparse.ArgumentTypeError(_expected(error, word)) from error

    return convert


def _expected(error: ValidationError, got: str) -> str:
    message = error.errors(include_url=False)[0]["msg"].split(", unable to parse")[0]
    if message.startswith("Value error, "):
        return message.removeprefix("Value error, ")
    kind = "a number " if "than" in message else ""
    expected = message.replace("Input should be ", kind).replace("Unable to parse input string as", "")
    return f"expected {expected.strip()}, got {shorten(got, 60, placeholder='...')}"


def free_fields(kind: type) -> set[str]:
    """The names of the fields of a dataclass that may differ when a run is resumed.

    Args:
        kind: dataclass.
    """
    return {name for name, field in kind.__pydantic_fields__.items() if FREE in field.metadata}


@dataclass(frozen=True)
class CommandLine(Generic[C]):
    """The command line of an experiment.

    Args:
        description: first lines of the help.
        presets: configurations by name, shown in the help; the first one is the default.
        recipes: other values of a few flags, chosen by --recipe, whatever the preset; none, and no such flag.
    """

    description: str
    presets: Mapping[str, C]
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def kind(self) -> type[C]:
        """The dataclass of the presets."""
        return type(next(iter(self.presets.values())))

    def parser(self) -> ArgumentParser:
        """The parser, which gives the flags on the command line alone."""
        epilog = "defaults:\n" + _table({name: asdict(preset) for name, preset in self.presets.items()})
        epilog += f"\n\nrecipes:\n{_table(self.recipes)}" if self.recipes else ""
        parser = make_parser(self.description, self.kind, epilog=epilog)
        _add_choice(parser, "preset", self.presets, "where the defaults come from, see the end of this page")
        if self.recipes:
            _add_choice(parser, "recipe", self.recipes, "how to train, in place of the preset's way")
        return parser

    def parse(self, words: Sequence[str] | None = None) -> tuple[C, dict[str, Any]]:
        """Parse a command line.

        Args:
            words: of the command line; None for those of this process.

        Returns:
            the configuration, of flags not on the command line as the recipe has them, if one is named, else as the
            preset; and the flags on the command line.

        Raises:
            UsageError: a flag is unknown, or its value is not one of its own.
        """
        given = vars(self.parser().parse_args(words))
        preset = given.get("preset", next(iter(self.presets)))
        recipe = self.recipes.get(given.get("recipe", ""), {})
        values = {"preset": preset, **recipe, **self.kind.implied(given), **given}
        return replace(self.presets[preset], **values), given

    def read(self, values: Mapping[str, Any]) -> C:
        """The configuration that a file holds.

        Args:
            values: of every flag.

        Raises:
            UsageError: one of them is none that a command line gives.
        """
        try:
            config = self.kind(**values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            message = f"{first['loc'][0]}: {_expected(error, repr(first['input']))}"
            raise UsageError(shorten(message, LONGEST, placeholder=" ...")) from error
        for name, choices in (("preset", {*self.presets}), ("recipe", {None, *self.recipes})):
            if (chosen := getattr(config, name, None)) not in choices:
                raise UsageError(f"{name}: expected one of {sorted(map(str, choices))}, got {shorten(chosen, 60)!r}")
        return config


def _add_choice(parser: ArgumentParser, name: str, choices: Iterable[str], help_: str) -> None:
    annotation = Literal[tuple(choices)]
    parser.add_argument(f"--{name}", type=read_as(annotation), metavar=_metavar(annotation), help=help_)


def _table(columns: Mapping[str, Mapping[str, Any]]) -> str:
    names = [name for name in next(iter(columns.values())) if name not in CHOSEN]
    cells = [["", *columns], *([f"--{name}", *(str(of[name]) for of in columns.values())] for name in names)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
