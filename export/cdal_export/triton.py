"""A Triton model repository from exported engines, with dynamic batching."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdal_export.exporter import Exported
from cdal_sdk.atomic import atomic
from cdal_sdk.bundle import Manifest
from cdal_sdk.engines import BatchProfile
from cdal_sdk.errors import UsageError

__all__ = ["check_engines", "model_config", "write_repository"]


@dataclass(frozen=True)
class _Backend:
    """How Triton runs an engine: its `platform` or `backend` line, and the name that it gives the file."""

    line: str
    file: str
    instance: str


_BACKENDS = {
    "onnx": _Backend('platform: "onnxruntime_onnx"', "model.onnx", "KIND_AUTO"),
    "tensorrt": _Backend('platform: "pytorch_libtorch"', "model.pt", "KIND_GPU"),
}

_CONFIG = """\
# Image in, vote mean and spread out: {description}.
name: "{name}"
{backend}
max_batch_size: {most}
input [ {{ name: "{image}", data_type: TYPE_FP32, dims: [ {channels}, {height}, {width} ] }} ]
output [
  {{ name: "{mean}", data_type: TYPE_FP32, dims: [ {labels}, {height}, {width} ] }},
  {{ name: "{spread}", data_type: TYPE_FP32, dims: [ {labels}, {height}, {width} ] }}
]
instance_group [ {{ count: 1, kind: {instance} }} ]
dynamic_batching {{ preferred_batch_size: [ {best}, {most} ], max_queue_delay_microseconds: 2000 }}
"""


def check_engines(names: Sequence[str], *, free_noise: bool) -> None:
    """Refuse what Triton cannot run, before anything is built.

    Raises:
        UsageError: if an engine is none of Triton's, or takes noise beside the image.
    """
    if free_noise:
        raise UsageError("a model of Triton takes an image only", remedy="leave --free-noise or --triton out")
    for name in names:
        if name not in _BACKENDS:
            having = " or ".join(f"--engine {known}" for known in _BACKENDS)
            raise UsageError(f"the engine '{name}' is none that Triton runs", remedy=f"use --triton with {having}")


def model_config(manifest: Manifest, engine: str, name: str, batch: BatchProfile) -> str:
    """The text of a config.pbtxt; sizes that the model leaves open are -1.

    Args:
        manifest: of the model.
        engine: "onnx" or "tensorrt".
        name: of the model in the repository.
        batch: images at once.
    """
    backend, fixed = _BACKENDS[engine], manifest.plan.fixed_size
    height, width = manifest.plan.canvas if fixed else (-1, -1)
    named = engine == "onnx"  # libtorch knows inputs and outputs by their place only
    return _CONFIG.format(
        description=" ".join(manifest.description.split()),
        name=name,
        backend=backend.line,
        instance=backend.instance,
        image="image" if named else "image__0",
        mean="mean" if named else "mean__0",
        spread="spread" if named else "spread__1",
        channels=manifest.network.image_channels,
        labels=manifest.network.label_channels,
        height=height,
        width=width,
        best=batch.best,
        most=batch.most,
    )


def _model_name(name: str) -> str:
    """A model's name as that of a folder in the repository, which it cannot leave."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "model"


def write_repository(exported: Exported, folder: Path) -> list[Path]:
    """Write `<model>-<engine>/config.pbtxt` and `<model>-<engine>/1/...` for every engine of an export.

    Returns:
        The files.

    Raises:
        UsageError: see `check_engines`.
        OutputError: if the folder cannot be written.
    """
    check_engines([engine.name for engine in exported.engines], free_noise=False)
    batch, written = BatchProfile(), []
    for engine in exported.engines:
        backend = _BACKENDS[engine.name]
        name = f"{_model_name(exported.manifest.name)}-{engine.name}"
        model, config = folder / name / "1" / backend.file, folder / name / "config.pbtxt"
        with atomic(model) as aside:  # a server that polls the repository meets no half of a file
            shutil.copyfile(exported.folder / engine.file, aside)
        with atomic(config) as aside:
            aside.write_text(model_config(exported.manifest, engine.name, name, batch), encoding="utf-8")
        written += [config, model]
    return written
