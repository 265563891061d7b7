"""The OpenVINO engine in INT8: quantised after training by NNCF, on images that an export has at hand.

What NNCF makes is OpenVINO's own format, an XML file beside one of weights; the engine's file is a ZIP archive of both,
not compressed. Outside the convolutions of `quantised_layer` it computes in the CPU's fastest floating point. The file
has the sampler's steps as outputs, too, so that quantising once serves engine and gate; an engine is opened without
them.
"""

from __future__ import annotations

import io
import logging
import math
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino
from numpy.typing import NDArray

from cdal_sdk.engines.base import Precision, Target, VoteMaps
from cdal_sdk.engines.onnx_int8 import quantised_layer
from cdal_sdk.engines.openvino_cpu import BUILDER as FLOATING
from cdal_sdk.engines.openvino_cpu import OpenVinoEngine, openvino_core, openvino_graph
from cdal_sdk.errors import EngineError, MissingExtraError
from cdal_sdk.network import Generator

__all__ = ["BUILDER"]

_XML, _WEIGHTS = "model.xml", "model.bin"
# Pixels of a calibrating image x steps x votes x width, at most: NNCF keeps the maps of every layer, 2 GB of so many.
_VALUES = 22_000_000
_LEAST = 96  # side that is shown in any case


class _Int8Builder:
    suffix = ".openvino-int8.zip"
    offers: tuple[Precision, ...] = ("int8",)
    needs_device = False
    takes_islands = takes_free_noise = False
    takes_probes = True

    def precisions(self, device: str) -> tuple[Precision, ...]:
        return ("int8",) if device == "cpu" else ()

    def environment(self, device: str) -> Mapping[str, str]:
        return FLOATING.environment(device)

    def build(self, generator: Generator, target: Target, path: Path) -> None:
        config, sampling = generator.config, target.sampling
        pixels = max(_VALUES // (sampling.schedule.steps * sampling.votes * config.width), _LEAST**2)
        images = [_cropped(image, pixels, config.divisor) for image in target.calibration_images()]
        free = replace(target, fixed_size=False, probes=True)
        model = openvino_core().read_model(openvino_graph(generator, free))
        if len({image.shape for image in images}) == 1:  # of a fixed size it takes less memory
            model.reshape([1, *images[0].shape])
        quantised = _quantise(model, images)
        sides = target.canvas if target.fixed_size else (-1, -1)
        quantised.reshape([-1, config.image_channels, *sides])
        with tempfile.TemporaryDirectory() as folder:
            xml, weights = Path(folder) / _XML, Path(folder) / _WEIGHTS
            openvino.serialize(quantised, xml, weights)
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
                for file in (xml, weights):
                    archive.write(file, file.name)

    def load(self, path: Path, target: Target) -> OpenVinoEngine:
        try:
            with zipfile.ZipFile(path) as archive:
                xml, weights = archive.read(_XML), np.frombuffer(archive.read(_WEIGHTS), np.uint8)
            model = openvino_core().read_model(xml, openvino.Tensor(weights))
        except (OSError, KeyError, zipfile.BadZipFile, RuntimeError) as error:
            raise EngineError("the INT8 file does not open here", where=path, remedy="export it again") from error
        for result in () if target.probes else model.get_results():
            if result.get_output_tensor(0).any_name not in VoteMaps._fields:
                model.remove_result(result)
        return OpenVinoEngine(model, target.precision, name="openvino-int8")


def _cropped(image: NDArray[np.float32], pixels: int, divisor: int) -> NDArray[np.float32]:
    """An image [channel, h, w], or where it has more pixels than these its middle, whose ranges may be others."""
    largest = max(math.isqrt(pixels) // divisor, 1) * divisor
    height, width = image.shape[1:] if image[0].size <= pixels else (min(side, largest) for side in image.shape[1:])
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]


def _quantise(model: openvino.Model, images: list[np.ndarray]) -> openvino.Model:
    try:
        import nncf
    except ImportError as error:
        raise MissingExtraError("nncf", "int8") from error
    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own function changes handlers that others share
    names = [node.get_friendly_name() for node in model.get_ops() if not _quantised(node)]
    kept = nncf.IgnoredScope(names=names, validate=False)
    data = nncf.Dataset([{"image": image[None]} for image in images])
    try:
        with redirect_stdout(io.StringIO()):  # NNCF's bars cannot be switched off, not even in a pipe
            return nncf.quantize(
                model, data, preset=nncf.QuantizationPreset.MIXED, subset_size=len(images), ignored_scope=kept
            )
    except Exception as error:
        raise EngineError(f"NNCF cannot quantise this ({error})", remedy="export without --int8") from error


def _quantised(node: openvino.Node) -> bool:
    name = node.get_friendly_name().removesuffix("/WithoutBiases")  # OpenVINO adds the bias in a node of its own
    return node.get_type_name() == "Convolution" and quantised_layer(name)


BUILDER = _Int8Builder()
