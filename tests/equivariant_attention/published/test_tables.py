import re

import pytest

from equivariant_attention.published import NAMES, Signs, signs
from equivariant_attention.published.tables import triples
from tests.docs.pages import ROOT


@pytest.mark.parametrize("name", NAMES)
def test_every_table_covers_all_pairs_up_to_a_degree(name):
    table = signs(name)
    degrees = range(max(k for k, _, _ in table) + 1)
    assert isinstance(table, Signs)
    assert list(table) == [triple for k in degrees for l in degrees for triple in triples(k, l)]
    assert set(table.values()) == {1, -1}
    assert table[0, 0, 0] == 1


def test_rosettafold():
    assert {triple for triple, sign in signs("rosettafold").items() if sign < 0} == {
        (1, 1, 1), (1, 2, 3), (2, 1, 3), (2, 2, 4)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "degree", "negative"),
    [("atomrefine", 3, 20), ("danligand", 1, 2), ("danligand_func", 1, 3), ("equivperformer", 3, 21), ("fast3", 2, 8),
     ("prtm", 2, 4), ("transcaps3d", 3, 12), ("one_thread", 3, 11), ("two_threads", 3, 17)],
)  # fmt: skip
def test_how_many_are_negative(name, degree, negative):
    table = signs(name)
    assert max(table)[:2] == (degree, degree)
    assert sum(sign < 0 for sign in table.values()) == negative


def test_the_page_on_migration_has_these_tables():
    rows = re.findall(r"^\| .* \| `(\w+)` \| (\d) \| ([\d ]+) \|$", (ROOT / "docs" / "migration.md").read_text(), re.M)
    assert len(rows) == len({tuple(signs(name).items()) for name in NAMES})
    for name, degree, negative in rows:
        assert int(degree) == max(signs(name))[0]
        assert negative.split() == ["".join(map(str, triple)) for triple, sign in signs(name).items() if sign < 0]


def test_a_caller_may_change_what_it_gets():
    signs("fast3").clear()
    assert signs("fast3")


def test_another_name_is_refused():
    with pytest.raises(ValueError, match=r"name must be one of .*'rosettafold'.*got 'alphafold'.*read_signs"):
        signs("alphafold")
