"""Models by name, folder or checkpoint; folders are checked by hash and loaded without any pickle."""

from __future__ import annotations

import ctypes
import glob
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdal_sdk.atomic import atomic, sync, unfinished
from cdal_sdk.bundle.checkpoint import load_checkpoint
from cdal_sdk.bundle.manifest import Manifest, manifest_from_data, manifest_from_json, manifest_to_json
from cdal_sdk.bundle.split import SPLIT_FILE, SplitRecord, split_from_data, split_from_json
from cdal_sdk.digest import sha256
from cdal_sdk.errors import ModelError, OutputError
from cdal_sdk.network import Generator

__all__ = [
    "GATE_FILE",
    "MANIFEST_FILE",
    "WEIGHTS_FILE",
    "Model",
    "bundled_models",
    "check_folder",
    "load_model",
    "read_manifest",
    "read_split",
    "replace_manifest",
    "stored_weights",
    "weights_identity",
    "write_model_folder",
]

_T = TypeVar("_T")

MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "weights.safetensors"
_TRIES, _PAUSE_SECONDS = 20, 0.002  # of exports that replace one folder at the same moment
_ABANDONED_SECONDS = 24 * 3600.0  # no folder is written as long: whoever began it was killed
_NEW, _OLD = "-cdal-new-", "-cdal-old-"  # in the names of folders beside one that is being written
_BROWSERS = (".ds_store", "thumbs.db", "desktop.ini")  # files that programs leave where somebody looks
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux
GATE_FILE = "gate.safetensors"
"""Network inputs that travel with a model, on which engines are held against the reference; optional."""

_ENGINES_FOLDER = "engines/"

_log = logging.getLogger(__name__)

_BUNDLED = Path(__file__).parent.parent / "models"


@dataclass(frozen=True)
class Model:
    """A loaded model: its manifest and its generator in float32 and eval mode.

    Attributes:
        manifest: what locks its method.
        generator: the network.
        files: the files of its folder that the manifest lists, checked against their hashes, by name.
        weights_sha256: identity of the weights.
    """

    manifest: Manifest
    generator: Generator
    files: Mapping[str, Path]
    weights_sha256: str

    def gate_images(self) -> list[NDArray[np.float32]]:
        """Images that travel with the model, arrays [n, channel, h, w]; empty where none do.

        Raises:
            ModelError: if they are no longer those of the manifest.
        """
        if GATE_FILE not in self.files:
            return []
        stored = _tensors(self.files[GATE_FILE], self.manifest.files[GATE_FILE])
        return [stored[name].float().numpy() for name in sorted(stored)]


def bundled_models() -> tuple[str, ...]:
    """Names of the models that ship with the package."""
    return tuple(sorted(manifest.parent.name for manifest in _BUNDLED.glob(f"*/{MANIFEST_FILE}")))


def _locate(reference: str | Path) -> Path:
    """The model folder or checkpoint behind a bundled name, else a path (`./hippocampus` is always a path)."""
    if isinstance(reference, str) and reference in bundled_models():
        return _BUNDLED / reference
    path = Path(reference)
    if path.exists():
        return path
    raise ModelError(
        f"there is no model '{reference}'",
        remedy=f"give a model folder, a checkpoint, or one of: {', '.join(bundled_models())}",
    )


def read_manifest(reference: str | Path) -> Manifest:
    """The manifest of a name, model folder or checkpoint; for a folder without reading its weights."""
    path = _locate(reference)
    if path.is_dir():
        return _folder_manifest(path)
    return manifest_from_data(load_checkpoint(path)["manifest"], path)


def read_split(reference: str | Path) -> SplitRecord | None:
    """The split record of a name, a model folder or a checkpoint of any method; None where it carries none.

    Raises:
        ModelError: if there is no such model, or its record is damaged.
    """
    path = _locate(reference)
    if path.is_dir():
        return _stable(path, lambda manifest: _folder_split(path, manifest))
    data = load_checkpoint(path).get("split")
    return None if data is None else split_from_data(data, path)


def _folder_split(path: Path, manifest: Manifest) -> SplitRecord | None:
    stored = _check_files(path, manifest).get(SPLIT_FILE)
    return None if stored is None else split_from_json(stored.read_bytes(), stored)


def _stable(path: Path, read: Callable[[Manifest], _T]) -> _T:
    """What is read of a model folder by its manifest; once more where an export replaced the folder meanwhile."""
    for _ in range(_TRIES - 1):
        manifest = _folder_manifest(path)
        try:
            return read(manifest)
        except ModelError:
            if _folder_manifest(path) == manifest:
                raise
    return read(_folder_manifest(path))


def load_model(reference: str | Path) -> Model:
    """Load a model by bundled name, model folder or checkpoint (`best.pt`).

    Raises:
        ModelError: if it does not exist, is damaged (a hash differs), or its weights do not fit its manifest.
    """
    path = _locate(reference)
    if path.is_dir():
        return _stable(path, lambda manifest: _folder_model(path, manifest))
    checkpoint = load_checkpoint(path)
    if (method := checkpoint.get("method", "cdal")) != "cdal":
        raise ModelError(
            f"this checkpoint is of the baseline '{method}'", where=path, remedy="score it with cdal evaluate"
        )
    return _assemble(manifest_from_data(checkpoint["manifest"], path), checkpoint["generator"], path, {})


def _folder_model(path: Path, manifest: Manifest) -> Model:
    files = _check_files(path, manifest)
    return _assemble(manifest, _tensors(files[WEIGHTS_FILE], manifest.files[WEIGHTS_FILE]), path, files)


def write_model_folder(
    folder: Path,
    manifest: Manifest,
    weights: Mapping[str, Tensor],
    *,
    extra_files: Mapping[str, Path] | None = None,
) -> Manifest:
    """Write a model folder in one step: it appears whole, or not at all.

    Args:
        folder: replaced if it is a model folder already and holds nothing else.
        manifest: its `files` are filled in here.
        weights: state dict of the generator, from `stored_weights`.
        extra_files: further files by their name in the folder (a relative path with slashes).

    Returns:
        The manifest as written.

    Raises:
        OutputError: if the folder exists and is no model folder or holds further files, or cannot be written.
    """
    check_folder(folder)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}{_NEW}", dir=folder.parent))
    try:
        # Not by save_file, whose files only their owner can read.
        (staging / WEIGHTS_FILE).write_bytes(safetensors.torch.save(dict(weights)))
        for name, source in (extra_files or {}).items():
            target = staging / PurePosixPath(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        names = [WEIGHTS_FILE, *(extra_files or {})]
        manifest = manifest.with_files({name: sha256(staging / name) for name in names})
        (staging / MANIFEST_FILE).write_text(manifest_to_json(manifest), encoding="utf-8")
        staging.chmod(0o755)
        for path in (*staging.rglob("*"), staging):  # the data are on the disk before the name is
            sync(path)
        _swap(staging, folder)
        with suppress(OSError):  # some network drives do not sync folders, and nothing can be taken back
            sync(folder.parent)
        _clear(folder)
    except (OSError, safetensors.SafetensorError) as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest


def check_folder(folder: Path) -> None:
    """Find out whether a model folder can be written, before work is spent on it.

    Raises:
        OutputError: if it exists and is no model folder or holds further files, or its place cannot be written.
    """
    if folder.exists() and (os.path.ismount(folder) or folder.samefile(os.curdir)):
        raise OutputError("this folder itself cannot be replaced", where=folder, remedy="give one inside it")
    for remaining in reversed(range(_TRIES)):  # another export may be exchanging it
        try:
            _check_replaceable(folder)
            break
        except OutputError:
            if not remaining:
                raise
        time.sleep(_PAUSE_SECONDS)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent)).rmdir()
    except OSError as error:
        raise _unwritable(folder, error) from error


def _check_replaceable(folder: Path) -> None:
    """Refuse what holds anything but a model's own files, since all of it would be lost."""
    try:
        if not folder.exists() or not any(folder.iterdir()):
            return
        own = {MANIFEST_FILE, *_listed(folder), *(path.name for path in unfinished(folder))}
        files = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
        names = (path.relative_to(folder).as_posix() for path in files if path.name.lower() not in _BROWSERS)
        other = next((name for name in names if name not in own), None)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise OutputError("this exists and is no model folder", where=folder, remedy="choose another --out") from error
    if other is not None:
        raise OutputError(
            f"this model folder also holds '{other}', which would be lost",
            where=folder,
            remedy="move it away, or choose another --out",
        )


def _listed(folder: Path) -> list[str]:
    """The files of a model folder, also of one whose manifest no longer holds, or is of another version."""
    entries = json.loads((folder / MANIFEST_FILE).read_bytes())
    if not {"schema", "betas"}.issubset(entries) or WEIGHTS_FILE not in entries["files"]:
        raise ValueError("it is another program's")
    return list(entries["files"])


def _unwritable(folder: Path, error: Exception) -> OutputError:
    what = f"the model folder cannot be written ({getattr(error, 'strerror', None) or error})"
    return OutputError(what, where=folder, remedy="free disk space or choose another --out")


def replace_manifest(folder: Path, manifest: Manifest) -> None:
    """Write another manifest to a model folder, for the same files, in one step.

    Raises:
        ModelError: if the folder is none, or the manifest lists other files.
        OutputError: if it cannot be written.
    """
    if _folder_manifest(folder).files != manifest.files:
        raise ModelError("the manifest lists other files than the folder's", where=folder)
    with atomic(folder / MANIFEST_FILE) as aside:
        aside.write_text(manifest_to_json(manifest), encoding="utf-8")


def _clear(folder: Path) -> None:
    """Delete what processes left beside a model folder that were killed while they wrote it."""
    ours = re.compile(rf"\.{re.escape(folder.name)}({_NEW}|{_OLD})[a-z0-9_]{{8}}")
    for left in folder.parent.glob(f".{glob.escape(folder.name)}-*"):
        with suppress(OSError):
            if ours.fullmatch(left.name) and time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Let two folders change places in one step, where the system can: nobody meets a moment without one of them."""
    if sys.platform != "linux" or b.is_symlink():
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and not rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE)


def _swap(staging: Path, folder: Path) -> None:
    """Put a finished folder in place of an older one. Of several exports to it at once, the last one stays."""
    if _exchange(staging, folder):
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}{_OLD}", dir=folder.parent))
    try:
        for number in range(_TRIES):
            try:
                with suppress(FileNotFoundError):  # there is none, or another export is exchanging it
                    folder.replace(aside / f"{number:02d}")
                staging.replace(folder)
            except OSError:
                if number == _TRIES - 1:
                    raise
                time.sleep(_PAUSE_SECONDS)
            else:
                break
    except BaseException:
        old = sorted(aside.iterdir())
        with suppress(OSError, IndexError):  # another export's is there by now, or there was none
            old[-1].replace(folder)
        if folder.exists() or not old:  # else aside holds the only copy
            shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def stored_weights(weights: Mapping[str, Tensor], *, half: bool) -> dict[str, Tensor]:
    """Weights as a model folder stores them: on the CPU, in float32 or half precision.

    Raises:
        ModelError: naming a weight that overflows half precision.
    """
    plain = {name: value.detach().cpu().float().contiguous() for name, value in weights.items()}
    if not half:
        return plain
    for name, value in plain.items():
        if value.abs().max() > torch.finfo(torch.float16).max:
            raise ModelError(f"the weight '{name}' overflows half precision", remedy="export without --fp16")
    return {name: value.half() for name, value in plain.items()}


def _folder_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_FILE
    try:
        return manifest_from_json(path.read_bytes(), path)
    except FileNotFoundError:
        raise ModelError(
            f"this folder holds no {MANIFEST_FILE}", where=folder, remedy="give a folder written by cdal export"
        ) from None
    except OSError as error:
        what = f"the manifest cannot be read ({error.strerror})"
        raise ModelError(what, where=path, remedy="check its permissions") from None


def _check_files(folder: Path, manifest: Manifest) -> dict[str, Path]:
    """Compare every listed file with its hash before anything of it is used; returns the files.

    A damaged engine is left out, since another one can take its place; anything else that differs is an error.
    """
    if WEIGHTS_FILE not in manifest.files:
        raise ModelError("the manifest lists no weights", where=folder, remedy="restore the model folder")
    files = {}
    for name, expected in manifest.files.items():
        path, parts = folder / name, PurePosixPath(name)
        found = path.is_file() and not parts.is_absolute() and ".." not in parts.parts
        if found and sha256(path) == expected:
            files[name] = path
            continue
        problem = f"the file '{name}' " + ("differs from its hash in the manifest" if found else "is missing")
        if not name.startswith(_ENGINES_FOLDER) or ".." in parts.parts:
            raise ModelError(problem, where=folder, remedy="restore the model folder")
        _log.warning("%s: %s; the engine is not used", folder, problem)
    return files


def _tensors(path: Path, expected: str) -> dict[str, Tensor]:
    """A file's tensors, read once: what is hashed is what is used, whatever happens to the file meanwhile."""
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != expected:
            what = f"the file '{path.name}' differs from its hash in the manifest"
            raise ModelError(what, where=path.parent, remedy="restore the model folder")
        return safetensors.torch.load(content)
    except (OSError, safetensors.SafetensorError) as error:
        what = f"the file '{path.name}' cannot be read ({error})"
        raise ModelError(what, where=path.parent, remedy="restore the folder") from None


def _assemble(manifest: Manifest, weights: Mapping[str, Tensor], where: Path, files: Mapping[str, Path]) -> Model:
    generator = Generator(manifest.network)
    expected = generator.state_dict()
    differing = sorted(expected.keys() ^ weights.keys())
    differing += [n for n in expected.keys() & weights.keys() if expected[n].shape != weights[n].shape]
    if differing:
        raise ModelError(
            f"weights and manifest disagree in {len(differing)} entries, the first being '{differing[0]}'",
            where=where,
            remedy="restore the model",
        )
    generator.load_state_dict({name: value.float() for name, value in weights.items()})
    return Model(manifest, generator.eval().requires_grad_(False), files, weights_identity(weights))


def weights_identity(weights: Mapping[str, Tensor]) -> str:
    """A hash of names and values, the same for a folder and the checkpoint it was exported from (in float32)."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
