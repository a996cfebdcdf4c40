"""Lists of tensors that passed a check are known again, and no others."""

import threading

import pytest
import torch

from equivariant_attention.native.private import STATES, Seen, guards

pytestmark = pytest.mark.skipif(guards is None, reason="this PyTorch has no guards where others have them")


def test_like_tensors_are_known_and_others_are_not():
    seen = Seen()
    seen.add("key", [torch.randn(2, 3), torch.randn(4)])
    assert seen.has("key", [torch.randn(2, 3), torch.randn(4)])
    assert not seen.has("another key", [torch.randn(2, 3), torch.randn(4)])
    for other in (torch.randn(4, requires_grad=True), torch.randn(5), torch.randn(8)[::2], torch.randn(4).double()):
        assert not seen.has("key", [torch.randn(2, 3), other])


def test_so_many_states_are_known_and_the_oldest_is_forgotten():
    seen = Seen()
    for size in range(1, STATES + 2):
        seen.add("key", [torch.zeros(size)])
    assert [seen.has("key", [torch.zeros(size)]) for size in (1, 2, STATES + 1)] == [False, True, True]


def test_one_thread_may_ask_while_another_adds():
    seen = Seen()

    class Adds:
        """In the place of what compares: another thread adds just then."""

        def check(self, tensor):
            thread = threading.Thread(target=seen.add, args=("key", [torch.zeros(3)]))
            thread.start()
            thread.join()
            return False

    seen.add("key", [torch.zeros(1)])
    seen._guards["key"] = type(seen._guards["key"])([Adds(), *seen._guards["key"]])
    assert seen.has("key", [torch.zeros(1)])
    assert seen.has("key", [torch.zeros(3)])
