import pytest

from equivariant_attention.nvidia import ConvSE3FuseLevel, Fiber
from equivariant_attention.nvidia.layout import Layout, convolution_of, layout_of, layouts, networks_of, scales

EQUAL, UNEQUAL = Fiber({0: 4, 1: 4}), Fiber({0: 4, 1: 2})


@pytest.mark.parametrize(
    ("sent", "made", "max_degree", "expected"),
    [
        (EQUAL, EQUAL, 1, [Layout.ALL, Layout.DEGREE_OUT, Layout.DEGREE_IN, Layout.PAIR]),
        (EQUAL, EQUAL, 2, [Layout.PAIR]),
        (EQUAL, UNEQUAL, 1, [Layout.DEGREE_OUT, Layout.PAIR]),
        (UNEQUAL, EQUAL, 1, [Layout.DEGREE_IN, Layout.PAIR]),
        (UNEQUAL, UNEQUAL, 1, [Layout.PAIR]),
        (EQUAL, Fiber({1: 4}), 1, [Layout.DEGREE_OUT, Layout.PAIR]),
    ],
)
def test_layouts_that_channels_allow(sent, made, max_degree, expected):
    assert layouts(sent, made, max_degree) == expected


def test_a_level_that_does_not_apply_falls_to_the_next():
    assert layout_of(ConvSE3FuseLevel.FULL, layouts(EQUAL, UNEQUAL, 1)) is Layout.DEGREE_OUT
    assert layout_of(ConvSE3FuseLevel.PARTIAL, layouts(EQUAL, EQUAL, 1)) is Layout.DEGREE_OUT
    assert layout_of(ConvSE3FuseLevel.NONE, layouts(EQUAL, EQUAL, 1)) is Layout.PAIR


@pytest.mark.parametrize("layout", Layout)
def test_every_row_of_every_network_belongs_to_one_pair(layout):
    elements = tuple(EQUAL.structure)
    networks = networks_of(layout, elements, elements)
    half = ((0, 2), (1, 2))
    made = convolution_of(layout, elements, elements, (half, half), True, True)
    served = [set() for _ in networks]
    for pair, ends in zip(made.pairs, made.ends, strict=True):
        rows = {
            pair.first + o * pair.step_out + i * pair.step_in + J
            for o in range(ends.channels_out)
            for i in range(ends.channels_in)
            for J in range(ends.num_freq)
        }
        assert not rows & served[pair.network]
        served[pair.network] |= rows
    assert [len(rows) for rows in served] == [network.rows for network in networks] == list(made.rows)


def test_networks_are_in_the_order_of_channels():
    sent, made = ((1, 2), (0, 4)), ((2, 1), (0, 2))
    assert [n.name for n in networks_of(Layout.PAIR, sent, made)] == ["conv.1,2", "conv.1,0", "conv.0,2", "conv.0,0"]
    assert [n.name for n in networks_of(Layout.DEGREE_IN, sent, made)] == ["conv_in.1", "conv_in.0"]
    assert networks_of(Layout.DEGREE_OUT, sent, made)[0].pairs == ((0, 2), (1, 2))


def test_equal_shapes_have_one_structure():
    elements = tuple(EQUAL.structure)
    arguments = Layout.PAIR, elements, elements, (elements,), True
    assert convolution_of(*arguments, True) is convolution_of(*arguments, True)
    assert all(not pair.scales for pair in convolution_of(*arguments, False).pairs)


def test_scalars_alone_are_multiplied_by_one():
    assert scales(0, 0, is_alone=True)[0] * 0.28209479177387814 == pytest.approx(1)
    assert scales(0, 0, is_alone=False) == (1,)
