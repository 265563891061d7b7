"""Models on disk: the manifest that locks the method, weights in safetensors, and training checkpoints."""

from cdal_sdk.bundle.checkpoint import checkpoint_content, load_checkpoint, save_checkpoint
from cdal_sdk.bundle.manifest import Manifest, Provenance, manifest_from_data, manifest_from_json, manifest_to_json
from cdal_sdk.bundle.published import convert_published, published_manifest
from cdal_sdk.bundle.split import SPLIT_FILE, SplitRecord, composed, name_hash, split_to_json
from cdal_sdk.bundle.store import (
    GATE_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    Model,
    bundled_models,
    check_folder,
    load_model,
    read_manifest,
    read_split,
    replace_manifest,
    stored_weights,
    weights_identity,
    write_model_folder,
)

__all__ = [
    "GATE_FILE",
    "MANIFEST_FILE",
    "SPLIT_FILE",
    "WEIGHTS_FILE",
    "Manifest",
    "Model",
    "Provenance",
    "SplitRecord",
    "bundled_models",
    "check_folder",
    "checkpoint_content",
    "composed",
    "convert_published",
    "load_checkpoint",
    "load_model",
    "manifest_from_data",
    "manifest_from_json",
    "manifest_to_json",
    "name_hash",
    "published_manifest",
    "read_manifest",
    "read_split",
    "replace_manifest",
    "save_checkpoint",
    "split_to_json",
    "stored_weights",
    "weights_identity",
    "write_model_folder",
]
