"""What the tests of every experiment's run.py ask of a run."""

import csv
from pathlib import Path


def rows(path):
    """Of a CSV file, without what depends on the machine's speed."""
    with open(path, newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def files(folder):
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


def assert_every_flag_has_a_value_in_every_preset(run):
    flags = {action.dest for action in run.EXPERIMENT.build_parser()._actions} - {"help", "preset", "recipe"}
    for preset in run.PRESETS.values():
        assert preset.keys() == flags
    assert flags > run.FREE
