"""Published cDAL checkpoints: their configuration and state dict turned into ours.

A published state dict numbers its layers under `all_modules` in the order in which the network is built; walking our
generator in the same order gives the name of each entry.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cdal_sdk.errors import ModelError
from cdal_sdk.network.blocks import EncoderBlock, ResidualBlock, SelfAttention
from cdal_sdk.network.config import GeneratorConfig
from cdal_sdk.network.generator import Generator, levels
from cdal_sdk.network.resample import PyramidDownsample
from cdal_sdk.network.torch_file import read_torch_file

__all__ = ["load_published", "published_generator_config", "read_published_config"]

_FIXED = {
    "conditional": True,
    "embedding_type": "positional",
    "fir": True,
    "fir_kernel": [1, 3, 3, 1],
    "progressive": "none",
    "progressive_combine": "sum",
    "progressive_input": "residual",
    "resblock_type": "biggan",
    "skip_rescale": True,
}
"""Settings with one value in every release; another value names a network that this project does not have."""


def read_published_config(path: Path) -> dict[str, Any]:
    """Read a published `parameters.json`.

    Raises:
        ModelError: if the file is missing, is not a JSON object or asks for a network outside the published family.
    """
    remedy = "give the parameters.json of the published run"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError("there is no such file", where=path, remedy=remedy) from None
    except OSError as error:
        what = f"the file cannot be opened ({error.strerror})"
        raise ModelError(what, where=path, remedy="check the path and its permissions") from None
    except ValueError as error:
        raise ModelError(f"this is no readable JSON ({error})", where=path, remedy=remedy) from error
    if not isinstance(config, dict):
        raise ModelError("this JSON holds no object", where=path, remedy=remedy)
    for key, expected in _FIXED.items():
        if config.get(key, expected) != expected:
            raise ModelError(
                f"'{key}' is {config[key]!r}, but every published model has {expected!r}",
                where=path,
                remedy="only the published family of networks can be imported",
            )
    return config


_KEYS = {
    "label_channels": "num_channels",
    "image_size": "image_size",
    "width": "num_channels_dae",
    "multipliers": "ch_mult",
    "blocks_per_level": "num_res_blocks",
    "attention_resolutions": "attn_resolutions",
    "latent_size": "nz",
    "latent_width": "z_emb_dim",
    "latent_layers": "n_mlp",
}
"""Our settings that stand in a published configuration under another name."""


def published_generator_config(config: Mapping[str, Any], *, where: Path | None = None) -> GeneratorConfig:
    """Translate the published keys.

    Raises:
        ModelError: naming the key that is missing or unusable.
    """

    def required(key: str) -> Any:
        if key not in config:
            raise ModelError(f"the key '{key}' is missing", where=where, remedy="add it to the configuration")
        return config[key]

    def value(key: str) -> Any:
        several = key in ("ch_mult", "attn_resolutions")
        entries = required(key) if several else [required(key)]
        if not isinstance(entries, list) or not all(type(entry) is int for entry in entries):
            wanted = "a list of whole numbers" if several else "a whole number"
            raise ModelError(f"'{key}' is {config[key]!r}", where=where, remedy=f"give it {wanted}")
        return tuple(entries) if several else entries[0]

    try:
        return GeneratorConfig(
            image_channels=3 if required("dataset") == "monu" else 1,
            encoder_blocks=value("cond_enc_layers") * value("cond_enc_num_res_blocks"),
            dropout=float(config.get("dropout", 0.0)),
            tanh=not config.get("not_use_tanh", False),
            **{ours: value(theirs) for ours, theirs in _KEYS.items()},
        )
    except ModelError as error:
        name, _, rest = error.what.partition(" ")
        raise ModelError(f"{_KEYS.get(name, name)} {rest}", where=where, remedy=error.remedy) from None
    except (TypeError, ValueError):
        raise ModelError(f"'dropout' is {config['dropout']!r}", where=where, remedy="give it a number") from None


def load_published(checkpoint: str | Path, config: str | Path) -> Generator:
    """Load a published checkpoint into our generator.

    Args:
        checkpoint: the published `.pth`, a state dict (keys prefixed `module.` or not).
        config: the published JSON of parameters.

    Returns:
        The generator in eval mode, float32: `generator(x_t, time_index, image, z)`.

    Raises:
        ModelError: if a file cannot be read safely, or an entry is missing, left over or of another shape; the
            message names the entry and the config key that probably disagrees.
    """
    checkpoint, config = Path(checkpoint), Path(config)
    generator = Generator(published_generator_config(read_published_config(config), where=config))
    generator.load_state_dict(_translate(_read_state(checkpoint), generator, checkpoint))
    return generator.eval()


def _read_state(path: Path) -> dict[str, Tensor]:
    remedy = "give the generator's published .pth, a plain state dict"
    state = read_torch_file(path, remedy)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError("this is no state dict", where=path, remedy=remedy)
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def _translate(state: dict[str, Tensor], generator: Generator, where: Path) -> dict[str, Tensor]:
    """The state under our names; strict, each mismatch named with the config key that probably disagrees."""
    ours = generator.state_dict()
    result: dict[str, Tensor] = {}
    for name, published in _names(generator):
        if published not in state:
            suspects = _layout_suspects(name, published, state)
            raise ModelError(f"the entry '{published}' is missing", where=where, remedy=_check(suspects))
        value = state.pop(published).float()
        if published.endswith(".W"):  # a 1x1 map kept as [in, out]
            value = value.T
        if value.shape != ours[name].shape:
            found, expected = list(value.shape), list(ours[name].shape)
            raise ModelError(
                f"the entry '{published}' has shape {found}, the configuration asks for {expected}",
                where=where,
                remedy=_check(_width_suspects(name, found, expected)),
            )
        result[name] = value
    if state:
        leftover = min(state)
        raise ModelError(
            f"the configuration has no place for {len(state)} entries, the first being '{leftover}'",
            where=where,
            remedy=_check("n_mlp" if leftover.startswith("z_transform") else _LAYOUT),
        )
    return result


def _names(generator: Generator) -> Iterator[tuple[str, str]]:
    """Pairs (our state-dict entry, published entry), in the published order."""
    paths = {module: path for path, module in generator.named_modules()}
    for number, module in zip(count(), _modules(generator), strict=False):
        for ours, theirs in _entries(module):
            yield f"{paths[module]}.{ours}", f"all_modules.{number}.{theirs}"
    for i in range(len(generator.latent_mapping.layers)):
        for kind in ("weight", "bias"):
            yield f"latent_mapping.layers.{i}.{kind}", f"z_transform.{2 * i + 1}.{kind}"


def _modules(generator: Generator) -> Iterator[nn.Module]:
    """Our modules in the order of `all_modules`."""
    yield generator.time_embedding.hidden
    yield generator.time_embedding.out
    yield generator.encoder.conv
    yield from generator.encoder.blocks
    yield generator.label_conv
    for level in levels(generator.down):
        for i, block in enumerate(level.blocks):
            yield block
            if level.attentions:
                yield level.attentions[i]
        if level.resample is not None and level.pyramid is not None:
            yield level.resample
            yield level.pyramid
    yield from generator.middle
    for level in levels(generator.up):
        yield from level.blocks
        yield from level.attentions
        if level.resample is not None:
            yield level.resample
    yield generator.norm
    yield generator.out


def _entries(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Pairs (our parameter, published parameter) of one module."""
    if isinstance(module, SelfAttention):
        yield from _both("norm", "GroupNorm_0")
        for i, name in enumerate(("query", "key", "value", "out")):
            yield f"{name}.weight", f"NIN_{i}.W"
            yield f"{name}.bias", f"NIN_{i}.b"
        return
    if isinstance(module, ResidualBlock):
        names = {
            "norm1.style": "GroupNorm_0.style",
            "conv1": "Conv_0",
            "time": "Dense_0",
            "norm2.style": "GroupNorm_1.style",
            "conv2": "Conv_1",
        }
        if isinstance(module.shortcut, nn.Conv2d):
            names["shortcut"] = "Conv_2"
    elif isinstance(module, EncoderBlock):
        names = {
            "norm1": "0.in_layers.0",
            "conv1": "0.in_layers.2",
            "norm2": "0.out_layers.0",
            "conv2": "0.out_layers.3",
        }
    elif isinstance(module, PyramidDownsample):
        names = {"conv": "Conv2d_0"}
    else:
        yield from (("weight", "weight"), ("bias", "bias"))
        return
    for ours, theirs in names.items():
        yield from _both(ours, theirs)


def _both(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for kind in ("weight", "bias"):
        yield f"{ours}.{kind}", f"{theirs}.{kind}"


_LAYOUT = "num_res_blocks, ch_mult, attn_resolutions, image_size"


def _layout_suspects(ours: str, published: str, state: Mapping[str, Tensor]) -> str:
    """The config keys that probably disagree where the file has another layer, or none, at this place."""
    if ours.startswith("latent_mapping"):
        return "n_mlp"
    number = published.rpartition("all_modules.")[2].partition(".")[0]
    is_encoder = any(name.startswith(f"all_modules.{number}.0.in_layers.") for name in state)
    if ours.startswith("encoder") or is_encoder:
        return "cond_enc_layers, cond_enc_num_res_blocks"
    return _LAYOUT


def _width_suspects(ours: str, found: list[int], expected: list[int]) -> str:
    """The config keys that probably disagree where an entry has another shape."""
    if ours.startswith("latent_mapping"):
        return "nz, z_emb_dim"
    if ".style." in ours and found[0] == expected[0]:
        return "z_emb_dim"
    if ours.startswith("encoder.conv"):
        return "dataset, num_channels_dae"
    if ours.startswith(("encoder", "time_embedding")):
        return "num_channels_dae"
    if ours.startswith(("label_conv", "out")) or ".pyramid." in ours:
        return "num_channels, num_channels_dae, ch_mult"
    return f"num_channels_dae, {_LAYOUT}"


def _check(keys: str) -> str:
    return f"check these keys of the configuration against the run that made the file: {keys}"
