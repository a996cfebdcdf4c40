"""Sizes of programs: the rule's, or those that were kept."""

import json
import os
from itertools import product

import pytest
import torch

from equivariant_attention.contraction import triton_sizes
from equivariant_attention.contraction.triton_mix import mix_product_gradient
from equivariant_attention.contraction.triton_sizes import FILE, Key, candidates, chosen, keep
from equivariant_attention.kernels import launch

triton = pytest.importorskip("triton")
KEY = Key("messages", 90, "high", edges=2, channels_in=32, channels_out=16, degrees=(16, 4, 14, 6), has_bias=True)
GPU = "a GPU"


def forget():
    """What a process has read."""
    for read in (chosen, triton_sizes._kept):
        read.cache_clear()


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """The file, which is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forget()
    yield tmp_path / "equivariant_attention" / FILE
    forget()


def rewrite(path, content):
    path.write_bytes(content)
    forget()


@pytest.mark.parametrize("kernel", ["messages", "by_hidden", "by_weights"])
def test_candidates_are_few_and_whole_tiles(kernel):
    channels, precisions = [8, 32, 256], ["highest", "high", "medium", "float64"]
    for capability, precision, D, C, P in product([80, 90, 100], precisions, [1, 2, 4], channels, channels):
        found = candidates(Key(kernel, capability, precision, D, C, P, (1, 1)))
        assert 1 <= len(found) == len({str(sizes) for sizes in found}) <= 4
        for sizes in found:
            outs = [sizes[name] for name in ("PT0", "PT") if name in sizes]
            assert C % sizes["CT"] == 0
            assert all(P % n == 0 for n in outs)
            assert all(n % sizes[of] == 0 for n, of in zip(outs, ("PD0", "PD"), strict=False) if of in sizes)
            assert launch.power_of_two(sizes["ROWS"], 16) == sizes["ROWS"]


def test_by_the_rule_unless_others_were_kept():
    by_rule, *others = candidates(KEY)
    assert others
    for other in others:
        assert chosen(KEY, GPU) == by_rule
        keep({KEY: other}, GPU)
        assert chosen(KEY, GPU) == other
        assert chosen(KEY, "") == chosen(KEY, "another GPU") == by_rule
        keep({KEY: by_rule}, GPU)


@pytest.mark.parametrize(
    "change",
    [
        {"capability": 100}, {"precision": "medium"}, {"edges": 1}, {"channels_in": 16}, {"channels_out": 32},
        {"degrees": (16, 4, 14, 5)}, {"has_bias": False},
    ],
)  # fmt: skip
def test_kept_for_one_key_alone(change):
    keep({KEY: candidates(KEY)[-1]}, GPU)
    other = KEY._replace(**change)
    assert chosen(other, GPU) == candidates(other)[0]


def test_what_was_kept_before_stays(kept):
    last = candidates(KEY)[-1]
    keep({KEY: last}, GPU)
    keep({KEY: last}, "another GPU")
    keep({KEY._replace(edges=1): candidates(KEY._replace(edges=1))[0]}, GPU)
    assert chosen(KEY, GPU) == chosen(KEY, "another GPU") == last
    assert len(json.loads(kept.read_text())) == 3


def test_another_version_of_triton_has_sizes_of_its_own(monkeypatch):
    keep({KEY: candidates(KEY)[-1]}, GPU)
    forget()
    monkeypatch.setattr(triton, "__version__", "99.0")
    assert chosen(KEY, GPU) == candidates(KEY)[0]


@pytest.mark.parametrize("content", [b"", b"\xff", b"{", b"[]", b"1", b"[" * 100_000])
def test_a_damaged_file_is_not_taken(kept, content):
    keep({KEY: candidates(KEY)[-1]}, GPU)
    rewrite(kept, content)
    assert chosen(KEY, GPU) == candidates(KEY)[0]
    keep({KEY: candidates(KEY)[-1]}, GPU)
    assert chosen(KEY, GPU) == candidates(KEY)[-1]


@pytest.mark.parametrize("change", [{"PT": 3}, {"PT": "4"}, {"ROWS": 2**20}, {"num_warps": 64}, {"more": 1}])
def test_sizes_that_are_no_candidate_are_not_taken(kept, change):
    keep({KEY: candidates(KEY)[-1]}, GPU)
    content = {name: sizes | change for name, sizes in json.loads(kept.read_text()).items()}
    rewrite(kept, json.dumps(content).encode())
    assert chosen(KEY, GPU) == candidates(KEY)[0]


@pytest.mark.parametrize("other", [None, [], "PT", {}])
def test_what_is_no_sizes_is_not_taken(kept, other):
    keep({KEY: candidates(KEY)[-1]}, GPU)
    rewrite(kept, json.dumps(dict.fromkeys(json.loads(kept.read_text()), other)).encode())
    assert chosen(KEY, GPU) == candidates(KEY)[0]


def test_numbers_are_the_candidates_own(kept):
    """4.0 equals 4 in Python, and is another constant to the compiler."""
    keep({KEY: candidates(KEY)[-1]}, GPU)
    content = {name: {k: float(v) for k, v in sizes.items()} for name, sizes in json.loads(kept.read_text()).items()}
    rewrite(kept, json.dumps(content).encode())
    assert chosen(KEY, GPU) == candidates(KEY)[-1]
    assert {type(v) for v in chosen(KEY, GPU).values()} == {int}


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_not_from_where_others_may_write(kept):
    keep({KEY: candidates(KEY)[-1]}, GPU)
    forget()
    kept.parent.chmod(0o777)
    assert chosen(KEY, GPU) == candidates(KEY)[0]


def test_read_once(kept):
    other = KEY._replace(edges=1)
    keep({key: candidates(key)[-1] for key in (KEY, other)}, GPU)
    forget()
    assert chosen(KEY, GPU) == candidates(KEY)[-1]
    kept.unlink()
    assert chosen(KEY, GPU) == candidates(KEY)[-1]
    assert chosen(other, GPU) == candidates(other)[-1]


def test_launches_are_of_the_sizes_that_were_kept(monkeypatch):
    h, A, x, dy = (torch.zeros(shape) for shape in ((1, 64, 33), (1, 33, 32 * 16), (64, 2, 32), (64, 2, 16)))
    keys = {}

    def note(key):
        keys[key.kernel] = key
        return candidates(key)

    with monkeypatch.context() as patch, launch.recorded(90) as record:
        patch.setattr(triton_sizes, "candidates", note)
        mix_product_gradient(h, A, x, dy)
    assert {one.name for one in record} == keys.keys() == {"messages", "by_hidden", "by_weights"}
    keep({key: candidates(key)[-1] for key in keys.values()}, GPU)
    monkeypatch.setattr(launch, "gpu_name", lambda device: GPU)
    with launch.recorded(90) as record:
        mix_product_gradient(h, A, x, dy)
    for one in record:
        by_rule, *_, last = candidates(keys[one.name])
        assert last != by_rule
        assert one.arguments.items() >= last.items()
