"""A picture of the result: slices with the contour of each label, for a quick look at a whole run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.optimize import linear_sum_assignment

from cdal_sdk.atomic import atomic
from cdal_sdk.errors import OutputError
from cdal_sdk.study import Label, Study

__all__ = ["thumbnail", "write_preview"]

_MOST_TILES = 12
_MOST_PAIRS = 8  # with the spread beside each
_WIDTH, _GREATEST_HEIGHT = 1000, 1000  # pixels of the tiles together; a preview costs as much as it has of them
_LEAST_WIDTH = 512  # of a picture of few pixels, which is shown whole at its own size
_ENOUGH_PIXELS = 200_000  # to find the window of gray values
_REDUCING_GAP = 2.0  # of resizing: sixteen times as fast on pictures of many pixels, and no difference to see
_ANISOTROPIC = 1.5  # from this ratio of spacings on, only the planes as they were acquired are worth looking at
_GAP, _LEGEND_HEIGHT, _SWATCH, _BAR = 8, 52, 18, 140
_LINE_WIDTH, _FILL = 2.0, 0.12  # pixels; opacity of the labelled area
_BACKGROUND, _TEXT, _DIM_TEXT = (18, 18, 20), (235, 235, 235), (160, 160, 165)
# The spread from none (the picture itself, dimmed) to 0.25, half of the most that votes can differ.
_HEAT_STOPS = np.array([0.0, 0.06, 0.14, 0.25], np.float32)
_HEAT = np.array([[40, 20, 90], [150, 40, 130], [245, 130, 50], [255, 245, 160]], np.float32)
_HEAT_STEPS = np.linspace(0, _HEAT_STOPS[-1], 256)
_HEAT_TABLE = (
    np.stack([np.interp(_HEAT_STEPS, _HEAT_STOPS, part) for part in _HEAT.T], axis=-1).round().astype(np.uint8)
)
_FASTEST_PNG = 1  # five times as fast as the default, a fifth larger
_Scalar = TypeVar("_Scalar", np.float32, np.uint8)
_EDGES = (("A", "S"), ("R", "S"), ("R", "A"))  # left and upper edge of a sagittal, coronal and axial picture


@dataclass(frozen=True)
class _Plane:
    """One picture to show: gray or colour [row, column, channel], its mask, and how large its pixels are."""

    pixels: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    pixel_size: tuple[float, float]  # height and width, in any common unit
    caption: str = ""
    edges: tuple[str, str] | None = None  # anatomical direction of the left and of the upper edge
    spread: NDArray[np.float32] | None = None  # [row, column]


def write_preview(
    study: Study,
    mask: NDArray[np.uint8],
    path: Path,
    labels: Sequence[Label],
    spread: NDArray[np.float32] | None = None,
) -> None:
    """Write a montage with the contours of each label and, beside each picture, the spread of the votes.

    A volume is shown in up to twelve axial planes spread over the labelled region, or, where its slices are much
    thicker than its pixels, in the plane nearest to how it was acquired. The display is radiological: the patient's
    right is on the left, anterior is up (in coronal and sagittal planes superior is up, in sagittal ones anterior is
    left). Small regions are enlarged. A planar picture is shown whole. Nothing names the patient: where the pixels
    may do so, only the contours are shown.

    Args:
        study: the image; the first channel of a volume is shown.
        mask: uint8 [i, j, k] of label numbers on its grid.
        path: ends in .png.
        labels: names and colours for the contours and the legend.
        spread: float32 [label, i, j, k] on the probability scale; None for contours alone.

    Raises:
        OutputError: the shapes differ or the file cannot be written.
    """
    if mask.shape != study.grid:
        raise OutputError(f"the shape {mask.shape} of the mask is not that of its source, {study.grid}", where=path)
    if study.burnt_in:
        study = replace(study, image=np.zeros_like(study.image))
    widest = None if spread is None else spread.max(axis=0)
    planes = _planar(study, mask, widest) if study.affine is None else _slices(study, study.affine, mask, widest)
    own_width = planes[0].mask.shape[1] * (1 if spread is None else 2)
    width = _WIDTH if study.affine is not None else min(_WIDTH, max(_LEAST_WIDTH, own_width))
    picture = _montage(planes, labels, width, empty=not mask.any())
    with atomic(path) as temporary:
        picture.save(temporary, format="PNG", compress_level=_FASTEST_PNG)


def thumbnail(path: Path, size: int = 720) -> bytes:
    """A preview as a JPEG of at most that many pixels a side, for pages.

    Raises:
        OSError: the file cannot be read.
    """
    stream = BytesIO()
    with Image.open(path, formats=("PNG",)) as picture:
        picture.thumbnail((size, size))
        picture.convert("RGB").save(stream, format="JPEG", quality=80)
    return stream.getvalue()


def _planar(study: Study, mask: NDArray[np.uint8], spread: NDArray[np.float32] | None) -> list[_Plane]:
    pixels = np.moveaxis(study.image[..., 0], 0, -1)
    if pixels.shape[2] == 3:
        colours = (pixels / np.float32(1 if pixels.max() <= 255 else 257)).astype(np.uint8)  # as they are
    else:
        colours = _windowed(pixels[..., :1])
    shown = None if spread is None else spread[..., 0]
    return [_Plane(colours, mask[..., 0], study.pixel_spacing or (1.0, 1.0), spread=shown)]


def _slices(
    study: Study, affine: NDArray[np.float64], mask: NDArray[np.uint8], spread: NDArray[np.float32] | None
) -> list[_Plane]:
    """Planes across the z axis of the patient, or across the axis of thick slices, in radiological display."""
    directions = affine[:3, :3]
    spacing = np.linalg.norm(directions, axis=0)
    _, axes = linear_sum_assignment(-np.abs(directions / spacing))  # the array axis nearest to x, y and z
    flipped = [bool(directions[world, axis] < 0) for world, axis in enumerate(axes)]
    sizes = spacing[axes]
    across = int(sizes.argmax()) if sizes.max() > _ANISOTROPIC * sizes.min() else 2

    def display(volume: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """[plane, row, column]: axes along x, y, z, the slicing one first, then downwards, then to the right."""
        turned = volume.transpose(axes)
        turned = turned[tuple(slice(None, None, -1 if flip else 1) for flip in flipped)]
        in_plane = [axis for axis in (2, 1, 0) if axis != across]
        return turned.transpose(across, *in_plane)[:, ::-1, ::-1]

    image, labelled = display(study.image[0]), display(mask)
    chosen = _chosen(labelled, _MOST_TILES if spread is None else _MOST_PAIRS)
    rows, columns = _region(labelled, chosen)
    image, labelled = image[:, rows, columns], labelled[:, rows, columns]
    shown = _windowed(image[chosen])[..., np.newaxis]
    uncertain = None if spread is None else display(spread)[:, rows, columns]
    count = len(image)
    number = {index: count - index if flipped[across] else index + 1 for index in chosen}
    height, width = (float(sizes[axis]) for axis in (2, 1, 0) if axis != across)
    return [
        _Plane(
            pixels,
            labelled[index],
            (height, width),
            f"{number[index]} / {count}",
            _EDGES[across],
            None if uncertain is None else uncertain[index],
        )
        for index, pixels in zip(chosen, shown, strict=True)
    ]


def _chosen(labelled: NDArray[np.uint8], most: int) -> list[int]:
    """Planes to show, spread over those with a label, or over all where there is none."""
    held = np.flatnonzero(labelled.any(axis=(1, 2)))
    first, last = (held[0], held[-1]) if len(held) else (0, len(labelled) - 1)
    tiles = min(most, int(last - first) + 1)
    return [int(index) for index in np.linspace(first, last, tiles).round()]


def _region(labelled: NDArray[np.uint8], chosen: list[int]) -> tuple[slice, slice]:
    """Rows and columns to show: the labels with half their extent around them, at least a quarter of the plane."""
    present: NDArray[np.bool_] = np.any(labelled[chosen] > 0, axis=0)
    if not present.any():
        return slice(None), slice(None)
    regions = []
    for axis in (0, 1):
        held, size = np.flatnonzero(np.any(present, axis=1 - axis)), present.shape[axis]
        centre, half = (held[0] + held[-1] + 1) / 2, max(float(held[-1] + 1 - held[0]), size / 8)
        regions.append(slice(max(0, int(centre - half)), min(size, int(np.ceil(centre + half)))))
    return regions[0], regions[1]


def _windowed(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Gray values of 8 bits, between their percentiles 0.5 and 99.5."""
    some = pixels.ravel()[:: pixels.size // _ENOUGH_PIXELS | 1]
    low, high = np.percentile(some, [0.5, 99.5]).astype(np.float32)
    scaled: NDArray[np.float32] = np.clip((pixels - low) * (255 / max(high - low, np.float32(1e-6))), 0, 255)
    return scaled.astype(np.uint8)


def _montage(planes: Sequence[_Plane], labels: Sequence[Label], most: int, *, empty: bool) -> Image.Image:
    """The planes side by side in at most so many pixels of width, over a legend."""
    height, width = (float(n * size) for n, size in zip(planes[0].mask.shape, planes[0].pixel_size, strict=True))
    paired = planes[0].spread is not None
    width *= 1 + paired

    def scale_of(columns: int) -> float:
        """Screen pixels per unit of length with that many columns."""
        rows = -(-len(planes) // columns)
        return min((most - (columns - 1) * _GAP) / (columns * width), _GREATEST_HEIGHT / (rows * height))

    columns = max(range(1, len(planes) + 1), key=lambda count: (scale_of(count), count))
    rows, scale = -(-len(planes) // columns), scale_of(columns)
    tile_size = max(2, round(width * scale)), max(1, round(height * scale))
    total = (
        columns * tile_size[0] + (columns + 1) * _GAP,
        rows * tile_size[1] + (rows + 1) * _GAP + _LEGEND_HEIGHT,
    )
    montage = Image.new("RGB", total, _BACKGROUND)
    for number, plane in enumerate(planes):
        row, column = divmod(number, columns)
        corner = _GAP + column * (tile_size[0] + _GAP), _GAP + row * (tile_size[1] + _GAP)
        if plane.spread is None:
            montage.paste(_tile(plane, tile_size, labels), corner)
            continue
        half = tile_size[0] // 2, tile_size[1]
        montage.paste(_tile(plane, half, labels), corner)
        montage.paste(_spread_tile(plane, plane.spread, half), (corner[0] + half[0], corner[1]))
    _draw_legend(montage, labels, empty=empty, spread=paired)
    return montage


def _spread_tile(plane: _Plane, spread: NDArray[np.float32], size: tuple[int, int]) -> Image.Image:
    """The spread in the colours of heat over the dimmed picture, at its final size (width, height)."""
    dimmed = _picture(plane.pixels, size).convert("L").point(lambda gray: gray * 110 / 255).convert("RGB")
    soft = _enlarged(spread, size)
    opacity = np.minimum(soft * (255 / _HEAT_STOPS[1]), 255).astype(np.uint8)
    return Image.composite(_heat(soft), dimmed, Image.fromarray(opacity))


def _heat(spread: NDArray[np.float32]) -> Image.Image:
    """The colours of spreads [row, column]."""
    last = len(_HEAT_TABLE) - 1
    steps = np.minimum(spread * (last / _HEAT_STOPS[-1]) + np.float32(0.5), last).astype(np.uint8)
    return Image.fromarray(_HEAT_TABLE[steps])


def _tile(plane: _Plane, size: tuple[int, int], labels: Sequence[Label]) -> Image.Image:
    """One plane at its final size (width, height), with contours and captions."""
    tile = _picture(plane.pixels, size).convert("RGB")
    for label in labels:
        inside = plane.mask == label.value
        if inside.any():
            soft = _enlarged(inside.astype(np.float32), size)
            opacity = np.maximum(_contour(soft), np.float32(_FILL) * (soft > 0.5))
            tile.paste(label.colour, mask=Image.fromarray((opacity * 255).round().astype(np.uint8)))
    draw = ImageDraw.Draw(tile)
    width, height = size
    draw.text((8, height - 8), plane.caption, _TEXT, _font(15), anchor="ls", stroke_width=1, stroke_fill="black")
    if plane.edges is not None:
        left, upper = plane.edges
        draw.text((6, height / 2), left, _TEXT, _font(15), anchor="lm", stroke_width=1, stroke_fill="black")
        draw.text((width / 2, 5), upper, _TEXT, _font(15), anchor="mt", stroke_width=1, stroke_fill="black")
    return tile


def _picture(pixels: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    """Gray or coloured pixels [row, column, channel] at that size (width, height)."""
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=_REDUCING_GAP)


def _enlarged(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Values [row, column] interpolated to that size (width, height)."""
    picture = Image.fromarray(np.ascontiguousarray(values))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=_REDUCING_GAP))


def _contour(soft: NDArray[np.float32]) -> NDArray[np.float32]:
    """Opacity of a smooth line along the border of a region, [row, column], from its soft mask in [0, 1]."""
    padded = np.pad(soft, 1)  # so that a region cut by the edge of the picture has a border there
    down, across = padded[2:, 1:-1] - padded[:-2, 1:-1], padded[1:-1, 2:] - padded[1:-1, :-2]
    slope = np.sqrt(down * down + across * across) / 2
    distance = np.abs(soft - np.float32(0.5)) / np.maximum(slope, np.float32(1e-3))  # to where it crosses one half
    line: NDArray[np.float32] = np.clip(np.float32(_LINE_WIDTH / 2 + 0.5) - distance, 0, 1)
    return line


def _draw_legend(montage: Image.Image, labels: Sequence[Label], *, empty: bool, spread: bool) -> None:
    draw = ImageDraw.Draw(montage)
    x, y = 2 * _GAP, montage.height - _LEGEND_HEIGHT / 2 - _GAP / 2
    for label in labels:
        draw.rounded_rectangle((x, y - _SWATCH / 2, x + _SWATCH, y + _SWATCH / 2), 4, label.colour)
        x += _SWATCH + 8
        draw.text((x, y), label.name, _TEXT, _font(18), anchor="lm")
        x += int(draw.textlength(label.name, _font(18))) + 28
    if empty:
        draw.text((x, y), "nothing labelled", _DIM_TEXT, _font(18), anchor="lm")
        x += int(draw.textlength("nothing labelled", _font(18))) + 28
    if spread:
        most = float(_HEAT_STOPS[-1])
        ramp = _heat(np.linspace(0, most, _BAR, dtype=np.float32)[np.newaxis].repeat(_SWATCH, axis=0))
        for text, offset in (("spread of the votes  0", 0), (f"{most:g}", _BAR + 8)):
            x += offset
            draw.text((x, y), text, _DIM_TEXT, _font(18), anchor="lm")
            if not offset:
                x += int(draw.textlength(text, _font(18))) + 8
                montage.paste(ramp, (x, round(y - _SWATCH / 2)))


@lru_cache  # the font is decoded at each call
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
