import torch

from equivariant_attention.segments import segment_max, segment_mean, segment_size, segment_softmax, segment_sum

SEGMENT = torch.tensor([0, 2, 2, 4, 0, 2])  # 1, 3 and 5 are empty
ROWS = {0: [0, 4], 2: [1, 2, 5], 4: [3]}


def mean(values, segment, num_segments):
    return segment_mean(values, segment, segment_size(segment, num_segments))


def test_sum_mean_max_and_size(dtype):
    values = torch.randn(6, 3, dtype=dtype)
    for function, reduce in (
        (segment_sum, lambda v: v.sum(0)),
        (mean, lambda v: v.mean(0)),
        (segment_max, lambda v: v.amax(0)),
    ):
        result = function(values, SEGMENT, 6)
        expected = torch.zeros(6, 3, dtype=dtype)
        for segment, rows in ROWS.items():
            expected[segment] = reduce(values[rows])
        torch.testing.assert_close(result, expected)
    assert segment_size(SEGMENT, 6).tolist() == [2, 0, 3, 0, 1, 0]


def test_softmax(dtype):
    logits = 100 * torch.randn(6, 2, dtype=dtype)
    result = segment_softmax(logits, SEGMENT, 6)
    for rows in ROWS.values():
        torch.testing.assert_close(result[rows], logits[rows].softmax(0))


def test_softmax_is_at_least_float32():
    assert segment_softmax(torch.randn(6, 2, dtype=torch.bfloat16), SEGMENT, 6).dtype == torch.float32


def test_softmax_with_an_envelope(dtype):
    logits, envelope = 100 * torch.randn(6, 2, dtype=dtype), torch.rand(6, 1, dtype=dtype)
    envelope[4] = 0
    result = segment_softmax(logits, SEGMENT, 6, envelope)
    for rows in ROWS.values():
        u, weights = envelope[rows], logits[rows].softmax(0)
        torch.testing.assert_close(result[rows], u * (u * weights) / (u * weights).sum(0))
    assert not result[4].any()


def test_an_envelope_may_be_tiny_or_zero_whatever_the_logits(dtype):
    """The row that counts nothing has by far the largest logit; the quotient of two tiny envelopes is not lost."""
    segment, logits = (
        torch.tensor([0, 0, 1, 1, 2, 2]),
        torch.tensor([[500.0], [-500], [0], [0], [3], [1e4]], dtype=dtype),
    )
    envelope = torch.tensor([[0], [0.5], [1e-30], [3e-30], [0], [0]], dtype=dtype)
    expected = torch.tensor([[0], [0.5], [0.25e-30], [2.25e-30], [0], [0]], dtype=dtype)
    torch.testing.assert_close(segment_softmax(logits, segment, 3, envelope), expected, rtol=1e-5, atol=0)


def test_no_rows():
    none = torch.zeros(0, 2)
    assert not segment_sum(none, SEGMENT[:0], 3).any()
    assert not mean(none, SEGMENT[:0], 3).any()
    assert not segment_max(none, SEGMENT[:0], 3).any()
    assert segment_softmax(none, SEGMENT[:0], 3).shape == (0, 2)


def test_derivatives():
    values = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    for function in (segment_sum, mean, segment_max, segment_softmax):
        assert torch.autograd.gradcheck(lambda v, f=function: f(v, SEGMENT, 6), values)
        assert torch.autograd.gradgradcheck(lambda v, f=function: f(v, SEGMENT, 6), values)
    envelope = torch.rand(6, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, u: segment_softmax(v, SEGMENT, 6, u), (values, envelope))
    assert torch.autograd.gradgradcheck(lambda v, u: segment_softmax(v, SEGMENT, 6, u), (values, envelope))
