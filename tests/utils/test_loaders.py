import pytest
import torch

from utils.loaders import EpochLoader, ShorterEpochs


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


@pytest.mark.parametrize("count", [1, 3, 20])
def test_the_first_samples_whatever_the_order(count):
    assert EpochLoader(Samples(), 4, list, shuffle=True).first(count) == [(i, 0) for i in range(min(count, 10))]


class Gathered(Samples):
    """Samples that come all at once."""

    def __getitems__(self, indices):
        return 100 + torch.tensor(indices)


def test_datasets_that_gather_samples_at_once():
    for dataset in (Gathered(), ShorterEpochs(Gathered(), 7, seed=1)):
        loader = EpochLoader(dataset, 4, torch.Tensor.tolist, shuffle=True)
        assert sum(map(len, loader)) == len(dataset)
        assert {*joined(loader)} <= {*range(100, 110)}
        assert len({*joined(loader)}) == len(dataset)
        assert len(loader.first(2)) == 2


def test_a_dataset_need_not_know_of_epochs():
    loader = EpochLoader(torch.utils.data.TensorDataset(torch.arange(3)), 2, list)
    loader.set_epoch(1)
    assert len(loader) == 2


@pytest.mark.parametrize("size", [3, 5, 10, 23])
def test_shorter_epochs_pass_over_all_samples_again_and_again(size):
    dataset, passes = ShorterEpochs(Samples(), size, seed=1), 3
    seen = []
    for epoch in range(-(-passes * 10 // size)):
        dataset.set_epoch(epoch)
        samples = [dataset[i] for i in range(len(dataset))]
        assert len(samples) == size
        assert {e for _, e in samples} == {epoch}
        seen += [i for i, _ in samples]
    orders = [seen[start : start + 10] for start in range(0, 10 * passes, 10)]
    assert [sorted(order) for order in orders] == [[*range(10)]] * passes
    assert orders[0] != orders[1]


def test_shorter_epochs_depend_on_seed_and_epoch_alone():
    first, second = ShorterEpochs(Samples(), 4, seed=1), ShorterEpochs(Samples(), 4, seed=1)
    for epoch in (0, 5):
        first.set_epoch(epoch)
    second.set_epoch(5)
    assert first.indices.tolist() == second.indices.tolist() != ShorterEpochs(Samples(), 4, seed=2).indices.tolist()
