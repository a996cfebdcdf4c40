"""Which signs the published basis has, where: a table for every pair of degrees, by client of the published code."""

from __future__ import annotations

from collections.abc import Iterator
from operator import index
from typing import Any

Triple = tuple[int, int, int]  # degree in k, degree out l, and J


class Signs(dict[Triple, int]):
    """Signs of the published Q_J relative to this library's, ``{(k, l, J): 1 or -1}``: all that are known.

    A triple that is not there is unknown, and :func:`~equivariant_attention.published.converted` refuses weights that
    need it; in a plain dict it counts as 1.
    """


# Rows are degrees in, with one word for each degree out: J from |k - l| to k + l. The tables are those that the clients
# ship as cache/trans_Q; the last two are of the published code itself, run with one and with two threads of BLAS.
_TABLES = {
    ("rosettafold", "rfv1", "prtm"): ("+ + +", "+ +-+ ++-", "+ ++- ++++-"),
    ("atomrefine",): ("+ - + +", "- --- --- +-+", "+ ++- -++-- ++-+-", "+ +-- -++++ ++--+++"),
    ("danligand",): ("+ +", "+ +--"),
    ("danligand_func",): ("+ -", "- -++"),
    ("equivperformer",): ("+ - + +", "- -++ +-- -+-", "+ --- ++++- --++-", "+ --+ ++-++ +-+---+"),
    ("fast3",): ("+ - +", "- -++ +-+", "+ --+ +++--"),
    ("transcaps3d",): ("+ - + +", "- -++ +-+ ++-", "+ --- +++++ +-++-", "+ +++ +++++ +++-+-+"),
    ("one_thread", "here_t1"): ("+ + + +", "+ +++ +-+ +++", "+ -++ ++--+ +-++-", "+ --- +-+++ +++-+++"),
    ("two_threads", "here_t2"): ("+ + + +", "+ +-+ --- -++", "+ +++ +-+-+ ++++-", "+ --- ---++ +-+-+-+"),
}
NAMES = tuple(name for names in _TABLES for name in names)


def signs(name: str) -> Signs:
    """The signs of a client of the published code, by its name.

    Args:
        name: 'rosettafold' (also 'rfv1', and 'prtm' has the same), 'atomrefine', 'danligand' (its scoring network),
            'danligand_func' (its functional-group network), 'equivperformer', 'fast3', 'transcaps3d'; or 'one_thread'
            and 'two_threads' (also 'here_t1', 'here_t2'), what the published code itself finds with one and with two
            threads of BLAS on one machine, which another machine need not find.

    Returns:
        the signs of all pairs of degrees that its cache holds.

    Raises:
        ValueError: there is no such table.
    """
    for names, rows in _TABLES.items():
        if name in names:
            table = Signs()
            for k, row in enumerate(rows):
                for l, word in enumerate(row.split()):
                    table.update(zip(triples(k, l), (1 if sign == "+" else -1 for sign in word), strict=True))
            return table
    raise ValueError(f"name must be one of {sorted(NAMES)}, got {name!r}; for another client use read_signs(folder)")


def triples(k: int, l: int) -> Iterator[Triple]:
    """``(k, l, J)`` of a pair of degrees, J ascending as in the basis and in the rows of the radial networks."""
    return ((k, l, J) for J in range(abs(k - l), k + l + 1))


def is_triple(triple: Any) -> bool:
    """Whether it is a ``(k, l, J)``, a tuple of whole numbers with J from |k - l| to k + l."""
    try:
        k, l, J = map(index, triple)
    except (TypeError, ValueError):
        return False
    return isinstance(triple, tuple) and min(k, l) >= 0 and abs(k - l) <= J <= k + l
