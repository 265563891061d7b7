"""The published generator once more, written down layer by layer from its specification, in float64.

It shares no code with the package. Running it writes its state dict: every weight is drawn when it is first asked for,
under its published name and with its published shape.
"""

from __future__ import annotations

import math
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, group_norm, linear, silu

CONFIG: dict[str, Any] = {
    "dataset": "monu",
    "image_size": 16,
    "num_channels": 2,
    "num_channels_dae": 32,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [8],
    "cond_enc_layers": 1,
    "cond_enc_num_res_blocks": 2,
    "nz": 6,
    "z_emb_dim": 8,
    "n_mlp": 2,
    "num_timesteps": 2,
    "beta_min": 0.1,
    "beta_max": 20.0,
}


def pad(x: Tensor, before: int, after: int) -> Tensor:
    """Zeros before and after height and width."""
    n, c, h, w = x.shape
    padded = torch.zeros(n, c, h + before + after, w + before + after, dtype=x.dtype)
    padded[:, :, before : before + h, before : before + w] = x
    return padded


def fir(x: Tensor, gain: float) -> Tensor:
    """Filter each channel with gain * outer(1, 3, 3, 1) / 64, without padding."""
    kernel = [[gain * a * b / 64 for a in (1, 3, 3, 1)] for b in (1, 3, 3, 1)]
    height, width = x.shape[2] - 3, x.shape[3] - 3
    return sum(kernel[i][j] * x[:, :, i : i + height, j : j + width] for i in range(4) for j in range(4))


def fir_down(x: Tensor) -> Tensor:
    return fir(pad(x, 1, 1), 1)[:, :, ::2, ::2]


def fir_up(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    spread = torch.zeros(n, c, 2 * h, 2 * w, dtype=x.dtype)
    spread[:, :, ::2, ::2] = x
    return fir(pad(spread, 2, 1), 4)


class Published:
    """The network of one published configuration."""

    def __init__(self, config: dict[str, Any], seed: int = 0) -> None:
        self.config = config
        self.state: dict[str, Tensor] = {}
        self._rng = np.random.default_rng(seed)

    def weight(self, name: str, *shape: int) -> Tensor:
        if name not in self.state:
            fan_in = math.prod(shape[1:]) or 1
            values = self._rng.normal(size=shape) / math.sqrt(fan_in)
            self.state[name] = torch.from_numpy(values).float()
        assert self.state[name].shape == shape
        return self.state[name].double()

    def linear(self, name: str, x: Tensor, out: int) -> Tensor:
        return linear(x, self.weight(f"{name}.weight", out, x.shape[1]), self.weight(f"{name}.bias", out))

    def conv(self, name: str, x: Tensor, out: int, size: int = 3, **how: int) -> Tensor:
        weight = self.weight(f"{name}.weight", out, x.shape[1], size, size)
        return conv2d(x, weight, self.weight(f"{name}.bias", out), **({"padding": size // 2} | how))

    def norm(self, name: str, x: Tensor, groups: int, eps: float) -> Tensor:
        c = x.shape[1]
        return group_norm(x, groups, self.weight(f"{name}.weight", c), self.weight(f"{name}.bias", c), eps)

    def adaptive_norm(self, name: str, x: Tensor, style: Tensor) -> Tensor:
        c = x.shape[1]
        both = self.linear(f"{name}.style", style, 2 * c)[:, :, None, None]
        return both[:, :c] * group_norm(x, min(c // 4, 32), eps=1e-6) + both[:, c:]

    def residual(self, name: str, x: Tensor, out: int, temb: Tensor, style: Tensor, resample=None) -> Tensor:
        h = silu(self.adaptive_norm(f"{name}.GroupNorm_0", x, style))
        needs_skip = resample is not None or x.shape[1] != out
        if resample is not None:
            h, x = resample(h), resample(x)
        h = self.conv(f"{name}.Conv_0", h, out)
        h = h + self.linear(f"{name}.Dense_0", silu(temb), out)[:, :, None, None]
        h = self.conv(f"{name}.Conv_1", silu(self.adaptive_norm(f"{name}.GroupNorm_1", h, style)), out)
        if needs_skip:
            x = self.conv(f"{name}.Conv_2", x, out, size=1)
        return (x + h) / math.sqrt(2)

    def attention(self, name: str, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        h = self.norm(f"{name}.GroupNorm_0", x, min(c // 4, 32), 1e-6).reshape(n, c, -1)

        def nin(i: int, y: Tensor) -> Tensor:
            w, b = self.weight(f"{name}.NIN_{i}.W", c, c), self.weight(f"{name}.NIN_{i}.b", c)
            return torch.einsum("ncp,cd->ndp", y, w) + b[None, :, None]

        q, k, v = nin(0, h), nin(1, h), nin(2, h)
        share = torch.softmax(torch.einsum("ncp,ncq->npq", q, k) / math.sqrt(c), dim=2)
        h = nin(3, torch.einsum("npq,ncq->ncp", share, v)).reshape(n, c, height, width)
        return (x + h) / math.sqrt(2)

    def style(self, z: Tensor) -> Tensor:
        z = z / torch.sqrt((z**2).mean(dim=1, keepdim=True) + 1e-8)
        for i in (1, *range(3, 3 + 2 * self.config["n_mlp"], 2)):
            z = silu(self.linear(f"z_transform.{i}", z, self.config["z_emb_dim"]))
        return z

    def time(self, t: Tensor, names: list[str]) -> Tensor:
        nf = self.config["num_channels_dae"]
        half = nf // 2
        phases = [t.double() * math.exp(-math.log(10000) * k / (half - 1)) for k in range(half)]
        embedding = torch.stack([p.sin() for p in phases] + [p.cos() for p in phases], dim=1)
        return self.linear(names[1], silu(self.linear(names[0], embedding, 4 * nf)), 4 * nf)

    def encode(self, image: Tensor, names: list[str]) -> Tensor:
        nf = self.config["num_channels_dae"]
        x = self.conv(names[0], image, nf)
        for name in names[1:]:
            h = self.conv(f"{name}.0.in_layers.2", silu(self.norm(f"{name}.0.in_layers.0", x, 32, 1e-5)), nf)
            x = x + self.conv(f"{name}.0.out_layers.3", silu(self.norm(f"{name}.0.out_layers.0", h, 32, 1e-5)), nf)
        return x

    def __call__(self, x_t: Tensor, t: Tensor, image: Tensor, z: Tensor) -> Tensor:
        config, x_t = self.config, x_t.double()
        nf, blocks, last = config["num_channels_dae"], config["num_res_blocks"], len(config["ch_mult"]) - 1
        numbers = (f"all_modules.{i}" for i in count())
        style = self.style(z.double())
        temb = self.time(t, [next(numbers), next(numbers)])
        encoder_blocks = config["cond_enc_layers"] * config["cond_enc_num_res_blocks"]
        condition = self.encode(image.double(), [next(numbers) for _ in range(1 + encoder_blocks)])

        def attends(level: int) -> bool:
            return config["image_size"] // 2**level in config["attn_resolutions"]

        h = self.conv(next(numbers), x_t, nf) + condition
        pyramid, stack = x_t, [h]
        for level, multiple in enumerate(config["ch_mult"]):
            for _ in range(blocks):
                h = self.residual(next(numbers), h, nf * multiple, temb, style)
                if attends(level):
                    h = self.attention(next(numbers), h)
                stack.append(h)
            if level != last:
                h = self.residual(next(numbers), h, nf * multiple, temb, style, fir_down)
                name = f"{next(numbers)}.Conv2d_0"
                pyramid = self.conv(name, fir(pad(pyramid, 2, 2), 1), nf * multiple, stride=2, padding=0)
                pyramid = h = (pyramid + h) / math.sqrt(2)
                stack.append(h)
        h = self.residual(next(numbers), h, h.shape[1], temb, style)
        h = self.attention(next(numbers), h)
        h = self.residual(next(numbers), h, h.shape[1], temb, style)
        for level in range(last, -1, -1):
            for _ in range(blocks + 1):
                h = torch.cat([h, stack.pop()], dim=1)
                h = self.residual(next(numbers), h, nf * config["ch_mult"][level], temb, style)
            if attends(level):
                h = self.attention(next(numbers), h)
            if level:
                h = self.residual(next(numbers), h, h.shape[1], temb, style, fir_up)
        h = silu(self.norm(next(numbers), h, min(h.shape[1] // 4, 32), 1e-6))
        h = self.conv(next(numbers), h, config["num_channels"])
        return h if config.get("not_use_tanh") else torch.tanh(h)
