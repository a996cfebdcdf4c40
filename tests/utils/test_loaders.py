import pytest
import torch

from utils.loaders import EpochLoader


class Samples(torch.utils.data.Dataset):
    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index, self.epoch


def batches(epoch, seed=0, shuffle=True, num_workers=0):
    loader = EpochLoader(Samples(), 4, list, shuffle=shuffle, seed=seed, num_workers=num_workers)
    loader.set_epoch(epoch)
    return list(loader)


def joined(lists):
    return [sample for batch in lists for sample in batch]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_order_depends_on_seed_and_epoch_alone(num_workers):
    expected = batches(3)
    torch.rand(5)
    assert batches(3, num_workers=num_workers) == expected
    assert sorted(joined(expected)) == [(i, 3) for i in range(10)]
    indices = [i for i, _ in joined(expected)]
    assert indices != [i for i, _ in joined(batches(4))]
    assert indices != [i for i, _ in joined(batches(3, seed=1))]


def test_without_shuffling():
    assert [len(batch) for batch in batches(0, shuffle=False)] == [4, 4, 2]
    assert joined(batches(5, shuffle=False)) == [(i, 5) for i in range(10)]


def test_a_dataset_need_not_know_of_epochs():
    loader = EpochLoader(torch.utils.data.TensorDataset(torch.arange(3)), 2, list)
    loader.set_epoch(1)
    assert len(loader) == 2
