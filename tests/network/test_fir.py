"""FIR resampling against its definition: insert zeros, pad, filter, decimate."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv2d

from cdal_sdk.network.resample import FirDownsample, FirUpsample, PyramidDownsample
from network.literal import fir, fir_down, fir_up, pad

SIZES = [(8, 8), (2, 2), (6, 14)]


def image(size: tuple[int, int]) -> torch.Tensor:
    return torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_down(size):
    torch.testing.assert_close(FirDownsample().double()(image(size)), fir_down(image(size)))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_up(size):
    torch.testing.assert_close(FirUpsample().double()(image(size)), fir_up(image(size)))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pyramid(size):
    pyramid = PyramidDownsample(3, 5).double()
    expected = conv2d(fir(pad(image(size), 2, 2), 1), pyramid.conv.weight, pyramid.conv.bias, stride=2)
    assert expected.shape[2:] == (size[0] // 2, size[1] // 2)
    torch.testing.assert_close(pyramid(image(size)), expected)


@pytest.mark.parametrize("layer", [FirDownsample(), FirUpsample()], ids=["down", "up"])
def test_a_constant_stays_constant_inside(layer):
    constant = layer(torch.ones(1, 1, 8, 8))[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(constant, torch.ones_like(constant))


def test_the_kernel_is_not_saved():
    assert not FirDownsample().state_dict()
    assert list(PyramidDownsample(1, 1).state_dict()) == ["conv.weight", "conv.bias"]
