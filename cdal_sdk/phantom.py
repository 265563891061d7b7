"""A synthetic T1-weighted MR crop around a left hippocampus, made of equations, with its known mask.

Nothing in it comes from a patient. The surroundings are a handful of ellipsoids and tubes, each painted over the ones
before it with soft edges (partial volume); the hippocampus is a bent tube of elliptical cross-section. All positions
are RAS millimetres relative to the middle of the hippocampus: x to the patient's right (medial, since it is a left
hippocampus), y anterior, z superior.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter

__all__ = ["Tissues", "synthesise"]

Array = NDArray[np.float64]

_ANTERIOR, _POSTERIOR = 1, 2


@dataclass(frozen=True)
class Tissues:
    """Signal of each tissue, as a scanner might store it, and what disturbs it."""

    csf: float = 80.0
    gray: float = 340.0
    hippocampus: float = 365.0
    deep_gray: float = 500.0  # thalamus, brainstem
    white: float = 610.0
    noise: float = 18.0  # standard deviation in each of the two channels of the receiver
    texture: float = 22.0  # standard deviation of what is not noise: vessels, fibres
    bias: float = 0.08  # relative change of sensitivity over 40 mm
    seed: int = 7


# Stations along the hippocampus, from the tail forwards: y, then the centre's x and z, the half axes of the
# cross-section (across and upright) and its tilt in degrees, which lifts the medial end.
_STATIONS = np.array(
    [
        # y      x     z   wide  high  tilt
        [-25.0, 1.8, 8.9, 1.5, 0.9, 26.0],
        [-23.0, 1.6, 8.9, 4.6, 2.6, 26.0],
        [-20.0, 1.0, 8.3, 6.0, 3.4, 22.0],
        [-15.0, -0.6, 5.8, 6.6, 3.8, 10.0],
        [-8.0, -2.7, 1.8, 6.8, 3.7, -2.0],
        [-1.0, -2.8, -0.9, 6.9, 3.9, -8.0],
        [2.5, -0.8, -2.1, 9.0, 4.7, -1.0],
        [7.0, 1.2, -3.5, 9.7, 5.2, 6.0],
        [11.0, 2.4, -5.0, 8.6, 4.0, 10.0],
        [14.0, 3.6, -6.0, 5.6, 2.4, 18.0],
        [16.0, 4.0, -6.3, 2.0, 1.0, 20.0],
    ]
)
_HEAD_BEGINS = -2.0  # the coronal plane behind which the posterior part begins


@dataclass(frozen=True)
class _Points:
    """Where the voxels are, each [i, j, k]."""

    x: Array
    y: Array
    z: Array


def synthesise(
    shape: tuple[int, int, int], affine: Array, tissues: Tissues | None = None
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Make the image and its mask.

    Args:
        shape: voxels along i, j, k.
        affine: [4, 4], voxel index to RAS millimetres, the middle of the hippocampus at the origin.
        tissues: signal and disturbances.

    Returns:
        int16 image and uint8 mask (1 anterior, 2 posterior), both [i, j, k].
    """
    tissues = tissues or Tissues()
    indices = np.stack([*np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"), np.ones(shape)], axis=-1)
    points = _Points(*np.moveaxis((indices @ affine.T)[..., :3], -1, 0))
    inside = _tube(points) < 0
    mask = np.where(inside, np.where(points.y >= _HEAD_BEGINS, _ANTERIOR, _POSTERIOR), 0).astype(np.uint8)
    return _disturbed(_anatomy(points, tissues), points, tissues), mask


def _anatomy(points: _Points, tissues: Tissues) -> Array:
    """The undisturbed signal: each structure painted over those before it."""
    x, y, z = points.x, points.y, points.z
    signal = np.full(x.shape, tissues.white)

    def paint(value: float, distance: Array, softness: float = 0.35) -> None:
        cover = 1 / (1 + np.exp(np.clip(distance / softness, -30, 30)))
        signal[...] += cover * (value - signal)

    centre_x, centre_z, *_ = _station(y)
    depth = z - centre_z
    # Cortex of the temporal lobe, below: gray, its folds filled with white matter and fluid in turns.
    folds = np.sin((x + 0.4 * y) / 2.6 + np.sin(y / 7))
    cortex = depth + 10.5 + 0.25 * x
    paint(tissues.gray, cortex, 0.6)
    paint(tissues.white, np.maximum(cortex + 2.5, 1.2 - 2.5 * folds), 0.6)
    paint(tissues.csf, np.maximum(cortex + 1.5, 2.2 + 2.5 * folds), 0.6)
    paint(tissues.gray, _ellipsoid(points, (-16, 12, 17), (4, 16, 8)), 0.6)  # insula
    paint(tissues.csf, _ellipsoid(points, (-17, 12, 18), (1.2, 12, 6)), 0.6)
    # Cerebellum with its folia, under the tentorium.
    cerebellum = np.maximum(_ellipsoid(points, (12, -22, -17), (26, 17, 14)), depth + 14)
    paint(tissues.gray * 1.1, cerebellum)
    folia = np.sin((0.7 * x + 0.4 * y + 0.6 * z) * 1.7 + 0.6 * np.sin(x / 4))
    paint(tissues.deep_gray, np.maximum(cerebellum + 1.0, 0.7 - 1.6 * folia), 0.5)
    # Deep gray matter above.
    paint(tissues.deep_gray, _ellipsoid(points, (9, 2, 16), (16, 24, 13)), 1.2)
    # Parahippocampal gyrus: fluid around its medial side, gray cortex, a white core that enters from the side.
    paint(tissues.csf, np.maximum(_tube(points, right=4.0, up=-4.5, wider=5.0, higher=4.2), centre_x + 1 - x))
    gyrus = _tube(points, right=2.5, up=-5.5, wider=3.5, higher=2.8)
    paint(tissues.gray, gyrus)
    paint(tissues.white, np.maximum(gyrus + 2.0, 3 - y), 0.8)
    paint(tissues.white, _tube(points, right=0.5, up=-4.2, wider=2.5, higher=-1.2))
    paint(tissues.white, _tube(points, right=-6.0, up=-4.5, wider=0.0, higher=1.0))
    # Towards the middle, the brainstem and the cisterns before and behind it.
    paint(tissues.csf, _ellipsoid(points, (21, -22, 8), (9, 9, 9)), 0.6)
    paint(tissues.csf, _ellipsoid(points, (19, 18, -8), (8, 8, 9)), 0.6)
    brainstem = _ellipsoid(points, (23, 0, -6), (12, 14, 22))
    paint(tissues.csf, np.maximum(brainstem - 1.3, z - 4))
    paint(tissues.deep_gray * 1.05, brainstem)
    # Amygdala and cortex in front of the head and above; the temporal horn between them and at the side; the fissure
    # on the medial side; the ventricle behind.
    paint(tissues.gray * 1.08, _ellipsoid(points, (3, 20, -1), (12, 11, 9)), 0.6)
    paint(tissues.csf, _ellipsoid(points, (-6, -24, 13), (2.5, 8, 7)))
    paint(tissues.csf, _tube(points, right=-1.0, up=0.3, wider=0.2, higher=-0.8), 0.4)
    paint(tissues.csf, np.maximum(_tube(points, right=0.5, up=1.2, wider=-2.0, higher=0.0), 6 - y))
    paint(tissues.csf, np.maximum(_tube(points, right=7.5, up=1.8, wider=-3.5, higher=-1.4), y - 3))
    paint(tissues.hippocampus, _tube(points))
    return signal


def _ellipsoid(points: _Points, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Array:
    """Signed distance in millimetres to an ellipsoid, negative inside; exact at its surface, fair nearby."""
    offsets = np.stack([points.x - centre[0], points.y - centre[1], points.z - centre[2]])
    return _distance(offsets, np.reshape(radii, (3, 1, 1, 1)))


def _tube(points: _Points, right: float = 0, up: float = 0, wider: float = 0, higher: float = 0) -> Array:
    """Signed distance in millimetres to the hippocampus, or to a neighbour that follows it at some offset."""
    first, last = _STATIONS[0, 0], _STATIONS[-1, 0]
    x, z, wide, high, tilt = _station(points.y)
    across, upright = points.x - x - right, points.z - z - up
    turn = np.radians(tilt)
    along_wide = across * np.cos(turn) + upright * np.sin(turn)
    along_high = upright * np.cos(turn) - across * np.sin(turn)
    section = _distance(
        np.stack([along_wide, along_high]), np.stack([np.maximum(wide + wider, 0.5), np.maximum(high + higher, 0.5)])
    )
    tube: Array = np.maximum(section, np.maximum(first - points.y, points.y - last))
    return tube


def _station(y: Array) -> Array:
    """The columns of the table after the first, smoothly interpolated, [column, i, j, k]."""
    curves = PchipInterpolator(_STATIONS[:, 0], _STATIONS[:, 1:])
    return np.moveaxis(curves(np.clip(y, _STATIONS[0, 0], _STATIONS[-1, 0])), -1, 0)


def _distance(offsets: Array, radii: Array) -> Array:
    """First-order distance to sum((offset / radius)^2) = 1."""
    offsets = np.where(offsets == 0, 1e-9, offsets)  # the very centre would be 0 / 0
    scaled = np.sqrt(((offsets / radii) ** 2).sum(axis=0))
    slope = np.sqrt(((offsets / radii**2) ** 2).sum(axis=0))
    distance: Array = scaled * (scaled - 1) / slope
    return distance


def _disturbed(signal: Array, points: _Points, tissues: Tissues) -> NDArray[np.int16]:
    """With texture, uneven sensitivity, the scanner's blur and Rician noise."""
    random = np.random.default_rng(tissues.seed)
    grain = gaussian_filter(random.normal(size=signal.shape), 0.6)
    textured = gaussian_filter(signal, 0.4) + tissues.texture * grain / grain.std()
    sensitivity = 1 + tissues.bias * (points.x + 0.5 * points.y - points.z) / 40
    real, imaginary = random.normal(scale=tissues.noise, size=(2, *signal.shape))
    magnitude: Array = np.hypot(textured * sensitivity + real, imaginary)
    return magnitude.round().astype(np.int16)
