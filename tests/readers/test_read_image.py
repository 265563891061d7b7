"""PNG, JPEG and TIFF in."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdal_sdk.errors import ReadError
from cdal_sdk.readers import discover, read_study
from cdal_sdk.readers.large_picture import open_large
from cdal_sdk.study import Study

GRAY8 = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
GRAY16 = GRAY8.astype(np.uint16) * 257
RGB = np.random.default_rng(0).integers(0, 255, (3, 4, 3), dtype=np.uint8)


def read(path: Path) -> Study:
    (case,) = discover([path])
    return read_study(case)


def refusal(path: Path) -> str:
    with pytest.raises(ReadError) as caught:
        read(path)
    assert path.name in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("pixels", [GRAY8, GRAY16], ids=["8 bits", "16 bits"])
def test_gray_keeps_its_values(tmp_path, pixels, suffix):
    path = tmp_path / f"gray.{suffix}"
    Image.fromarray(pixels).save(path)
    study = read(path)
    assert study.image.shape == (1, 3, 4, 1)
    assert study.image.dtype == np.float32
    np.testing.assert_array_equal(study.image[0, :, :, 0], pixels)
    assert study.planar
    assert study.source.kind == "image"


def test_rgb_gives_three_channels(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "rgb.png")
    np.testing.assert_array_equal(read(tmp_path / "rgb.png").image[..., 0], RGB.transpose(2, 0, 1))


def test_alpha_is_dropped_and_colours_stay(tmp_path):
    alpha = np.full((3, 4, 1), 7, np.uint8)
    Image.fromarray(np.concatenate([RGB, alpha], axis=2)).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read(tmp_path / "rgba.png").image[..., 0], RGB.transpose(2, 0, 1))
    Image.fromarray(np.stack([GRAY8, GRAY8 // 3], axis=2)).save(tmp_path / "la.png")
    np.testing.assert_array_equal(read(tmp_path / "la.png").image[0, :, :, 0], GRAY8)


def test_a_palette_gives_its_colours(tmp_path):
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), mode="P")
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read(tmp_path / "palette.png").image[:, 0, 1, 0], [0, 255, 0])


def test_one_bit_is_black_and_white(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read(tmp_path / "bits.png").image[0, 0, :, 0], [255, 0])


def test_exif_rotation_is_applied(tmp_path):
    pixels = np.zeros((16, 24), np.uint8)
    pixels[:8] = 200  # bright on top as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to display
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif)
    shown = read(tmp_path / "turned.jpg").image[0, :, :, 0]
    assert shown.shape == (24, 16)
    assert shown[:, -4:].mean() > 190  # what was on top is now right
    assert shown[:, :4].mean() < 10


def test_dots_per_inch_are_no_spacing(tmp_path):
    Image.fromarray(GRAY8).save(tmp_path / "dpi.png", dpi=(300, 300))
    assert read(tmp_path / "dpi.png").pixel_spacing is None


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "cut.tif"])
def test_truncated(tmp_path, name):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / name)
    raw = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(raw[: len(raw) // 2])
    assert "truncated or damaged" in refusal(tmp_path / name)


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((100, 100), np.uint8)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert "too large" in refusal(tmp_path / "bomb.png")


def write_tiff(path: Path, pixels: np.ndarray, *, photometric: int, order: str = "<") -> Path:
    """An uncompressed gray TIFF file, byte by byte, since few libraries write white as 0."""
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    height, width = pixels.shape
    entries = {
        256: width, 257: height, 258: 8 * pixels.itemsize, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height,
        279: len(data), 339: 3 if pixels.dtype.kind == "f" else 1,
    }  # fmt: skip
    index = struct.pack(f"{order}H", len(entries))
    index += b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in entries.items())
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(data))
    path.write_bytes(start + data + index + bytes(4))
    return path


@pytest.mark.parametrize("pixels", [GRAY8, GRAY16], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize(("photometric", "order"), [(0, "<"), (1, "<"), (1, ">")], ids=["white is 0", "black", "MM"])
def test_bright_is_high_on_both_ways(tmp_path, pixels, photometric, order):
    path = write_tiff(tmp_path / "x.tif", pixels, photometric=photometric, order=order)
    expected = pixels if photometric else np.iinfo(pixels.dtype).max - pixels
    np.testing.assert_array_equal(read(path).image[0, :, :, 0], expected)
    pytest.importorskip("pyvips", reason="the extra [slides] is not installed")
    picture = open_large(path)
    rows = np.frombuffer(picture.rows(0, 3), picture.shape.dtype).reshape(expected.shape)
    np.testing.assert_array_equal(rows, expected)


def test_inverted_real_numbers_are_refused(tmp_path):
    path = write_tiff(tmp_path / "x.tif", GRAY8.astype(np.float32), photometric=0)
    assert "real numbers, and inverted" in refusal(path)


def test_what_pillow_does_not_know_is_refused(tmp_path):
    path = write_tiff(tmp_path / "x.tif", GRAY16, photometric=0, order=">")
    assert "its pixels are of a kind that is not read" in refusal(path)


def test_a_kind_of_pixels_that_is_not_read_is_no_damage(tmp_path):
    pyvips = pytest.importorskip("pyvips", reason="the extra [slides] is not installed")
    both = np.stack([GRAY16, GRAY16], axis=2)
    image = pyvips.Image.new_from_memory(both.tobytes(), 4, 3, 2, "ushort").copy(interpretation="grey16")
    image.tiffsave(str(tmp_path / "alpha.tif"))
    assert "16-bit gray with transparency; save it as gray of 8" in refusal(tmp_path / "alpha.tif")


def test_several_pages_are_refused(tmp_path):
    page = Image.fromarray(GRAY8)
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    assert "more than one picture" in refusal(tmp_path / "pages.tif")


def test_an_animation_is_refused(tmp_path):
    frame = Image.fromarray(GRAY8)
    frame.save(tmp_path / "moving.png", save_all=True, append_images=[Image.fromarray(GRAY8[::-1])])
    assert "the PNG file holds more than one picture" in refusal(tmp_path / "moving.png")


def png16(path: Path, *, colour_type: int, channels: int) -> Path:
    """A PNG file of 16 bits, byte by byte, since Pillow writes them for gray only."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = np.arange(12 * channels, dtype=">u2").reshape(3, -1)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
    header = struct.pack(">IIBBBBB", 4, 3, 16, colour_type, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (6, 4), (4, 2)], ids=["RGB", "RGBA", "gray and alpha"])
def test_colours_of_16_bits_are_refused_and_not_halved(tmp_path, colour_type, channels):
    path = png16(tmp_path / "deep.png", colour_type=colour_type, channels=channels)
    assert "its pixels are 16-bit colours, or 16-bit gray with transparency; save it as" in refusal(path)


def test_gray_of_the_same_kind_is_read(tmp_path):
    study = read(png16(tmp_path / "deep.png", colour_type=0, channels=1))
    np.testing.assert_array_equal(study.image.ravel(), np.arange(12))


@pytest.mark.parametrize("compression", ["none", "lzw"])
@pytest.mark.parametrize("bands", [3, 4])
def test_colours_of_16_bits_in_tiff_are_refused(tmp_path, bands, compression):
    pyvips = pytest.importorskip("pyvips", reason="the extra [slides] is not installed")
    pixels = np.arange(12 * bands, dtype=np.uint16)
    image = pyvips.Image.new_from_memory(pixels.tobytes(), 4, 3, bands, "ushort").copy(interpretation="rgb16")
    image.tiffsave(str(tmp_path / "deep.tif"), compression=compression)
    assert "its pixels are 16-bit colours" in refusal(tmp_path / "deep.tif")


def test_a_real_xray(shared_data):
    path = sorted((shared_data / "cxr").rglob("*.png"))[0]
    study = read(path)
    assert study.image.shape[1:3] == (256, 256)
