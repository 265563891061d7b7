"""What lies outside a model's domain is refused, saying what and what would fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cdal_sdk.errors import DomainError
from cdal_sdk.slicing import Domain, Intensity, Plan, check_domain, match_channels
from slicing.conftest import phantom, picture, volume

VOLUMES = Plan(
    kind="volume",
    channels=1,
    intensity=Intensity("percentile"),
    fit="pad",
    canvas=(64, 64),
    divisor=8,
    domain=Domain(("MR",), spacing_mm=(0.6, 1.6), extent_mm=(4, 96)),
)
PICTURES = replace(VOLUMES, kind="planar", domain=Domain(("CR", "DX"), extent_mm=(100, 500)))


def refusal(study, plan) -> str:
    with pytest.raises(DomainError) as caught:
        check_domain(study, plan)
    assert "case: " in str(caught.value)
    assert "--force" in str(caught.value)
    return str(caught.value)


def spaced(*spacing: float) -> np.ndarray:
    return np.diag([*spacing, 1.0])


def test_what_fits_passes():
    check_domain(volume(), VOLUMES)
    check_domain(volume(affine=spaced(1.6, -0.6, 1.0)), VOLUMES)
    check_domain(volume(modality=None), VOLUMES)
    check_domain(picture(phantom((300, 200, 1))[..., 0], (1, 1), "CR"), PICTURES)


def test_an_open_domain_takes_everything():
    check_domain(volume(affine=spaced(9, 9, 90), modality="CT"), replace(VOLUMES, domain=Domain()))


def test_spacing():
    message = refusal(volume(affine=spaced(1, 1, 5)), VOLUMES)
    assert "the spacing is 1 x 1 x 5 mm, the model was trained on 0.6 to 1.6 mm" in message


def test_field_of_view():
    message = refusal(volume(phantom((170, 5, 5))), VOLUMES)
    assert "the field of view is 170 x 5 x 5 mm, the model was trained on 4 to 96 mm" in message


def test_modality():
    assert "the modality is CT, the model was trained on MR" in refusal(volume(modality="CT"), VOLUMES)


@pytest.mark.parametrize("view", ["lateral", "turned"])
def test_view(view):
    frontal, pixels = replace(PICTURES, domain=Domain(views=("frontal",))), phantom((300, 200, 1))[..., 0]
    message = refusal(replace(picture(pixels), view=view), frontal)
    assert f"the view is {view}, the model was trained on frontal ones" in message
    check_domain(replace(picture(pixels), view="frontal"), frontal)
    check_domain(picture(pixels), frontal)


def test_shares_of_one_are_not_eight_bits():
    eight_bits, pixels = replace(PICTURES, domain=Domain(values=(0, 255))), phantom((30, 20, 1))[..., 0]
    message = refusal(picture(pixels / pixels.max()), eight_bits)
    assert "the values go from 0 to 1, the model takes 0 to 255" in message
    check_domain(picture((pixels > 7).astype(np.float32)), eight_bits)


def test_kind():
    assert "this is a planar image, the model was trained on volumes" in refusal(
        picture(np.zeros((1, 9, 9), np.float32)), VOLUMES
    )
    assert "this is a volume, the model was trained on planar images" in refusal(volume(), PICTURES)


def test_a_picture_s_field_of_view_is_judged_where_its_spacing_is_known():
    pixels = phantom((300, 200, 1))[..., 0]
    assert "the field of view is 30 x 20 mm" in refusal(picture(pixels, (0.1, 0.1)), PICTURES)
    check_domain(picture(pixels), PICTURES)


@pytest.mark.parametrize("value", [0, 255])
def test_a_constant_image_shows_nothing(value):
    assert "values are all the same" in refusal(volume(np.full((1, 9, 9, 9), value, np.float32)), VOLUMES)
    assert "values are all the same" in refusal(picture(np.full((1, 300, 200), value, np.float32)), PICTURES)


def test_so_does_one_of_a_few_odd_pixels():
    pixels = np.zeros((1, 300, 200), np.float32)
    pixels[0, 0, :5] = 99
    trimmed = replace(PICTURES, intensity=Intensity("percentile", 0.5, 99.5))
    assert "values are all the same" in refusal(picture(pixels), trimmed)
    check_domain(picture(pixels), PICTURES)


def test_a_model_of_fixed_values_takes_blank_pictures():
    blank = picture(np.full((1, 300, 200), 255, np.float32))
    check_domain(blank, replace(PICTURES, intensity=Intensity("fixed", 0, 255)))


def test_a_picture_of_few_pixels_is_refused_where_it_would_be_enlarged():
    enlarging = replace(PICTURES, fit="resize")
    assert "40 x 15 pixels, too few" in refusal(picture(phantom((40, 15, 1))[..., 0]), enlarging)
    check_domain(picture(phantom((40, 16, 1))[..., 0]), enlarging)
    check_domain(picture(phantom((40, 15, 1))[..., 0]), PICTURES)


def test_a_strip_is_refused_where_its_sides_would_be_changed():
    square = replace(PICTURES, fit="resize")
    assert PICTURES.canvas[0] == PICTURES.canvas[1]
    for shape in ((301, 100, 1), (100, 301, 1)):
        assert "pixels, a strip" in refusal(picture(phantom(shape)[..., 0]), square)
        check_domain(picture(phantom(shape)[..., 0]), PICTURES)
    check_domain(picture(phantom((300, 100, 1))[..., 0]), square)


def test_channels_that_fit_are_left_alone():
    study = volume()
    assert match_channels(study, VOLUMES) is study


def test_a_gray_picture_saved_as_rgb_becomes_gray():
    gray = np.random.default_rng(0).normal(size=(1, 6, 5)).astype(np.float32)
    matched = match_channels(picture(gray.repeat(3, axis=0)), PICTURES)
    np.testing.assert_array_equal(matched.image, picture(gray).image)


def test_channels_that_do_not_fit_are_refused():
    colour = picture(np.random.default_rng(0).normal(size=(3, 6, 5)).astype(np.float32))
    with pytest.raises(DomainError, match="the image is RGB, the model takes gray ones"):
        match_channels(colour, PICTURES)
    with pytest.raises(DomainError, match="the image is gray, the model takes RGB ones"):
        match_channels(volume(), replace(VOLUMES, channels=3))
