"""Synthetic pictures made of equations: a frontal chest X-ray and stained tissue. Nothing in them comes from a patient.

Engines are held against the reference on them where a model brings no images: on what a model takes for its own kind of
picture its masks are decided, while on random structure they hang on the last bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

__all__ = ["chest", "tissue"]

Array = NDArray[np.float64]

_STROMA, _TEXTURE, _NUCLEUS = (215.0, 150.0, 190.0), (14.0, 22.0, 14.0), (95.0, 60.0, 140.0)  # red, green, blue
_NUCLEI = 450  # in 1000 x 1000 pixels at 40x


def chest(height: int, width: int) -> NDArray[np.float32]:
    """A frontal chest X-ray, bright bone, [height, width], in 8-bit values."""
    v, u = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    image = np.full(u.shape, 40.0)

    def paint(value: float, inside: Array, softness: float) -> None:
        """Over what is there, where `inside` is negative, with a soft edge."""
        nonlocal image
        image += _cover(inside / softness) * (value - image)

    paint(170, _ellipse(u, v, (0, 0.35), (0.92, 1.25)), 0.03)
    paint(150, _ellipse(u, v, (0, -0.95), (0.25, 0.5)), 0.05)  # neck
    for side in (-1, 1):
        lung = _ellipse(u, v, (side * 0.42, 0), (0.33, 0.72), turn=side * 0.12)
        diaphragm = _ellipse(u, v, (side * 0.42, 1.28), (0.9, 0.68))
        paint(70, np.maximum(lung, -diaphragm), 0.04)
    paint(215, _ellipse(u, v, (0, 0.1), (0.1, 1.2)), 0.08)  # spine
    paint(210, _ellipse(u, v, (0.12, 0.35), (0.26, 0.3), turn=0.5), 0.06)  # heart
    image += 14 * np.sin(24 * (v + 0.25 * np.abs(u))) * _cover(_ellipse(u, v, (0, 0.1), (0.85, 0.95)) / 0.05)  # ribs
    clavicles = np.abs(v + 0.72 + 0.15 * (np.abs(u) - 0.3)) / 0.03 - 1 + 3 * np.maximum(0, np.abs(u) / 0.8 - 1)
    paint(190, clavicles, 0.3)
    return _eight_bits(image + 5 * _grain(np.random.default_rng(0), u.shape, 3))


def tissue(height: int, width: int) -> NDArray[np.float32]:
    """Nuclei in tissue stained with haematoxylin and eosin, at 40x, [3, height, width], in 8-bit values."""
    random = np.random.default_rng(0)
    nuclei = np.zeros((height, width))
    for _ in range(round(_NUCLEI * height * width / 1e6)):
        row, column, turn = random.uniform(0, (height, width, np.pi))
        radius, roundness = random.uniform((9, 0.6), (17, 1))
        part = tuple(slice(max(0, int(middle) - 25), int(middle) + 26) for middle in (row, column))
        v, u = np.ogrid[part[0].start : min(part[0].stop, height), part[1].start : min(part[1].stop, width)]
        inside = radius * _ellipse(u, v, (column, row), (radius, radius * roundness), turn)
        nuclei[part] = np.maximum(nuclei[part], _cover(inside / 1.2))
    ground = _colours(_STROMA) + _colours(_TEXTURE) * _grain(random, nuclei.shape, 12)
    stained = ground + nuclei * (_colours(_NUCLEUS) - ground)
    return _eight_bits(stained + 8 * np.stack([_grain(random, nuclei.shape, 1.5) for _ in range(3)]))


def _ellipse(u: Array, v: Array, centre: tuple[float, float], radii: tuple[float, float], turn: float = 0) -> Array:
    """Negative inside an ellipse, 0 on it; grows by 1 a radius."""
    along, across = u - centre[0], v - centre[1]
    first = along * np.cos(turn) + across * np.sin(turn)
    second = across * np.cos(turn) - along * np.sin(turn)
    radius: Array = np.hypot(first / radii[0], second / radii[1])
    return radius - 1


def _cover(inside: Array) -> Array:
    """From signed distances to how much is covered, 1 deep inside."""
    share: Array = 1 / (1 + np.exp(np.clip(inside, -30, 30)))
    return share


def _grain(random: np.random.Generator, shape: tuple[int, ...], size: float) -> Array:
    """Smooth noise of deviation 1."""
    grain: Array = gaussian_filter(random.standard_normal(shape), size)
    grain /= grain.std()
    return grain


def _colours(values: tuple[float, ...]) -> Array:
    return np.reshape(values, (-1, 1, 1))


def _eight_bits(image: Array) -> NDArray[np.float32]:
    return image.clip(0, 255).round().astype(np.float32)
