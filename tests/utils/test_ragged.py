import numpy as np

from utils.ragged import ranges, starts


def test_ranges():
    sizes = np.array([2, 0, 3])
    assert starts(sizes).tolist() == [0, 2, 2, 5]
    assert ranges(np.array([10, 7, 20]), sizes).tolist() == [10, 11, 20, 21, 22]
    assert ranges(np.array([], dtype=int), np.array([], dtype=int)).tolist() == []
