import gzip
import pickle

import pytest
import torch

from equivariant_attention.published import Signs, read_signs, signs
from tests.equivariant_attention.published.cases import published_coupling, random_signs, write_array, write_cache


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "form", [torch.Tensor.float, torch.Tensor.double, torch.Tensor.numpy], ids=lambda f: f.__name__
)
def test_signs_are_read_from_tensors_and_arrays(tmp_path, form, protocol):
    expected = random_signs(2)
    found = read_signs(write_cache(tmp_path / "trans_Q", expected, form, protocol))
    assert isinstance(found, Signs)
    assert found == expected


def in_fortran_order(Q):
    return Q.T.contiguous().numpy().T


def a_part_of_a_storage(Q):
    return torch.cat([torch.ones(3), Q.flatten().float()])[3:].view(Q.shape)


def big_endian(Q):
    return Q.numpy().astype(">f4")


@pytest.mark.parametrize("form", [in_fortran_order, a_part_of_a_storage, big_endian, lambda Q: Q.T.contiguous().T])
def test_however_the_numbers_lie(tmp_path, form):
    expected = random_signs(2)
    assert read_signs(write_cache(tmp_path, expected, form)) == expected


def test_degrees_beyond_those_of_the_tables(tmp_path):
    expected = {(4, 5, 8): -1, (5, 4, 1): 1, (0, 6, 6): -1}
    assert read_signs(write_cache(tmp_path, expected)) == expected


def test_an_entry_without_a_file_is_not_covered(tmp_path):
    write_cache(tmp_path, signs("danligand"))
    (tmp_path / "5.pkl.gz").unlink()
    assert read_signs(tmp_path) == {t: s for t, s in signs("danligand").items() if t != (1, 1, 2)}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "key", [(2, 1, 1, 3), ((2, 1, 1), frozenset(), (3,)), ((2, 1, 1), frozenset({("version", 3)}), None)]
)
def test_keys_with_more_arguments(tmp_path, key, protocol):
    write_array(tmp_path / "0.pkl.gz", published_coupling((1, 1, 2), -1))
    (tmp_path / "index.pkl").write_bytes(pickle.dumps({key: "0.pkl.gz"}, protocol))
    assert read_signs(tmp_path) == {(1, 1, 2): -1}


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (["0.pkl.gz"], "expected a dict"),
        ({}, "none of the files"),
        ({"2,1,1": "0.pkl.gz"}, "expected keys"),
        ({(2, 1): "0.pkl.gz"}, "expected keys"),
        ({(2, 1, 1.0): "0.pkl.gz"}, "expected keys"),
        ({(3, 1, 1): "0.pkl.gz"}, r"J from \|k - l\| to k \+ l, got \(1, 1, 3\)"),
        ({(200, 100, 100): "0.pkl.gz"}, "k and l up to 10"),
        ({(2, 1, 1): "../0.pkl.gz"}, "name of a file in the folder"),
        ({(2, 1, 1): 0}, "name of a file in the folder"),
        ({(2, 1, 1): "1.pkl.gz"}, "none of the files"),
        ({(2, 1, 1): "0.pkl.gz", (2, 1, 1, 3): "other.pkl.gz"}, r"other\.pkl\.gz: has the other sign"),
        ({(1, 1, 1): "0.pkl.gz"}, r"0\.pkl\.gz: no file .* expected 27 numbers for \(k, l, J\) = \(1, 1, 1\), got 45"),
    ],
)
def test_another_index_is_refused(tmp_path, index, message):
    write_array(tmp_path / "0.pkl.gz", published_coupling((1, 1, 2)))
    write_array(tmp_path / "other.pkl.gz", published_coupling((1, 1, 2), -1))
    (tmp_path / "index.pkl").write_bytes(pickle.dumps(index))
    with pytest.raises(ValueError, match=message):
        read_signs(tmp_path)


@pytest.mark.parametrize(
    "value",
    [2 * published_coupling((1, 1, 2)), torch.ones(9, 5) / 45**0.5, torch.full((9, 5), torch.nan), "1", None,
     torch.full((9, 5), torch.inf), torch.ones(9, 5, dtype=torch.int64), torch.ones(9, 5).bool().numpy(), {1}, {},
     torch.ones(0, 5), torch.ones(9, 5, dtype=torch.cfloat), published_coupling((1, 1, 2)).numpy().astype(object)],
)  # fmt: skip
def test_what_is_no_coupling_is_refused(tmp_path, value):
    write_array(tmp_path / "0.pkl.gz", value)
    (tmp_path / "index.pkl").write_bytes(pickle.dumps({(2, 1, 1): "0.pkl.gz"}))
    with pytest.raises(ValueError, match=r"0\.pkl\.gz: no file of the published code's cache: expected"):
        read_signs(tmp_path)


def test_too_large_a_file_is_refused_before_it_is_unpacked(tmp_path):
    (tmp_path / "index.pkl").write_bytes(pickle.dumps({(2, 1, 1): "0.pkl.gz"}))
    with gzip.open(tmp_path / "0.pkl.gz", "wb") as file:
        for _ in range(64):
            file.write(bytes(2**20))
    with pytest.raises(ValueError, match=r"0\.pkl\.gz.*larger than"):
        read_signs(tmp_path)


def test_deep_lists_are_refused(tmp_path):
    deep = b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."
    write_cache(tmp_path, {(1, 1, 2): -1})
    (tmp_path / "0.pkl.gz").write_bytes(gzip.compress(deep))
    with pytest.raises(ValueError, match=r"0\.pkl\.gz: .* more than 100 deep"):
        read_signs(tmp_path)
    (tmp_path / "index.pkl").write_bytes(deep)
    with pytest.raises(ValueError, match=r"index\.pkl: .* more than 100 deep"):
        read_signs(tmp_path)


def test_every_cut_file_is_refused(tmp_path):
    write_cache(tmp_path, {(1, 1, 2): -1})
    for name in ("index.pkl", "0.pkl.gz"):
        whole = (tmp_path / name).read_bytes()
        for length in range(0, len(whole) - 8, 7):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(ValueError, match=name):
                read_signs(tmp_path)
        (tmp_path / name).write_bytes(whole)
    assert read_signs(tmp_path) == {(1, 1, 2): -1}


def test_a_folder_without_an_index(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"index\.pkl.*cache/trans_Q"):
        read_signs(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_signs(tmp_path / "nothing")
