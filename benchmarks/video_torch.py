"""The PyTorch side of benchmarks/video.py: the same networks, written for it, and their runs.

Two networks, as in `jaxgen.spacetime.video_dit` and `jaxgen.compressors.causal_autoencoder`: a
transformer that attends jointly, or in space and in time by turns; and a causal autoencoder of
tubelets. Attention is PyTorch's own (``scaled_dot_product_attention``), so are convolutions in
three dimensions. Modules have the names of jaxgen's parameters, so that weights can be copied.

Run by benchmarks/video.py, which talks to it over pipes; not a script of its own.
"""

import math
import re
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

PATCH = 2
"""Sides of a transformer's patch in space; in time 1."""

WAVES = 256
"""Numbers that a time becomes."""


def waves(places: np.ndarray, features: int) -> np.ndarray:
    """Sines, then cosines, of half as many frequencies."""
    frequencies = 10_000.0 ** (-np.arange(features // 2) / (features // 2))
    angles = places[..., None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)


class TimeEmbedding(nn.Module):
    """Waves of the time, then two layers."""

    def __init__(self, width: int):
        super().__init__()
        self.hidden, self.output = nn.Linear(WAVES, width), nn.Linear(width, width)
        half = WAVES // 2
        rates = torch.exp(-math.log(10_000.0) * torch.arange(half) / half)
        self.register_buffer("rates", rates)

    def forward(self, time: torch.Tensor) -> torch.Tensor:
        angles = time[:, None] * self.rates
        return self.output(F.silu(self.hidden(torch.cat([angles.cos(), angles.sin()], 1))))


class Attention(nn.Module):
    """Tokens of a group attend to each other: [B, groups, tokens, D]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, groups, tokens, width = x.shape
        parts = self.qkv(x).view(batch * groups, tokens, 3, self.heads, width // self.heads)
        seen = F.scaled_dot_product_attention(*parts.permute(2, 0, 3, 1, 4).unbind(0))
        return self.output(seen.transpose(1, 2).reshape(x.shape))


class MLP(nn.Module):
    """Two layers around GELU."""

    def __init__(self, width: int):
        super().__init__()
        self.hidden, self.output = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(F.gelu(self.hidden(x), approximate="tanh"))


def parts_of(layer: nn.Linear, condition: torch.Tensor, count: int) -> tuple[torch.Tensor, ...]:
    """Shifts, scales and gates, [B, 1, 1, D]."""
    return layer(condition)[:, None, None].chunk(count, dim=-1)


def modulated_norm(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """An adaptive layer norm."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class Block(nn.Module):
    """A block with adaLN-Zero."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.attention, self.mlp = Attention(width, heads), MLP(width)

    def forward(
        self, x: torch.Tensor, condition: torch.Tensor, added: torch.Tensor | None
    ) -> torch.Tensor:
        shift, scale, gate, *others = parts_of(self.modulation, condition, 6)
        y = modulated_norm(x, shift, scale)
        x = x + gate * self.attention(y if added is None else y + added)
        shift, scale, gate = others
        return x + gate * self.mlp(modulated_norm(x, shift, scale))


class FinalLayer(nn.Module):
    """From tokens to patches."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.modulation, self.output = nn.Linear(width, 2 * width), nn.Linear(width, outputs)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return self.output(modulated_norm(x, *parts_of(self.modulation, condition, 2)))


class VideoTransformer(nn.Module):
    """Noisy videos [B, T, Y, X, C] and times [B] to predictions."""

    def __init__(self, shape: dict):
        super().__init__()
        width, numbers = shape["width"], PATCH**2 * shape["channels"]
        frames, side = shape["frames"], shape["side"] // PATCH
        self.joint = shape["pattern"] == "joint"
        self.patch_embedding = nn.Linear(numbers, width)
        self.condition = nn.ModuleDict({"time": TimeEmbedding(width)})
        self.blocks = nn.ModuleList(Block(width, shape["heads"]) for _ in range(shape["depth"]))
        self.final = FinalLayer(width, numbers)
        rows, columns = np.indices((side, side)).reshape(2, 1, -1)
        placed = np.concatenate([waves(columns, width // 2), waves(rows, width // 2)], axis=-1)
        of_frames = waves(np.arange(frames), width)
        if self.joint:
            placed = placed + (of_frames - of_frames[0])[:, None]
        self.register_buffer("placed", torch.tensor(placed, dtype=torch.float32))
        self.register_buffer("of_frames", torch.tensor(of_frames, dtype=torch.float32))

    def forward(self, z: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        batch, frames, rows, columns, channels = z.shape
        cut = batch, frames, rows // PATCH, PATCH, columns // PATCH, PATCH, channels
        places = (rows // PATCH) * (columns // PATCH)
        patches = z.view(cut).transpose(3, 4).reshape(batch, frames, places, -1)
        x = self.patch_embedding(patches) + self.placed
        condition = F.silu(self.condition["time"](time))
        x = x.view(batch, 1, frames * places, -1) if self.joint else x
        for i, block in enumerate(self.blocks):
            if self.joint or i % 2 == 0:
                x = block(x, condition, None)
            else:
                x = block(x.transpose(1, 2).contiguous(), condition, self.of_frames)
                x = x.transpose(1, 2).contiguous()
        y = self.final(x, condition).view(*cut[:3], cut[4], PATCH, PATCH, channels)
        return y.transpose(3, 4).reshape(z.shape)


class CausalConv(nn.Conv3d):
    """A convolution that sees no later frame; the first one is repeated in front."""

    def __init__(self, inputs: int, outputs: int, size: int = 3):
        super().__init__(inputs, outputs, size, padding=(0, size // 2, size // 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = x[:, :, :1].expand(-1, -1, self.kernel_size[0] - 1, -1, -1)
        return super().forward(torch.cat([before, x], 2) if before.shape[2] else x)


class PixelNorm(nn.Module):
    """Root mean square of the channels of a pixel becomes 1, then a learned scale."""

    def __init__(self, channels: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        square = x.square().mean(1, keepdim=True)
        return x * torch.rsqrt(square + 1e-6) * self.scale.view(-1, 1, 1, 1)


class CausalBlock(nn.Module):
    """A residual block."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.conv1 = PixelNorm(width), CausalConv(width, width)
        self.norm2, self.conv2 = PixelNorm(width), CausalConv(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class CausalHalf(nn.Module):
    """An encoder or a decoder of tubelets."""

    def __init__(self, sizes: tuple[int, int], numbers: tuple[int, int, int], count: int):
        super().__init__()
        inputs, width, outputs = numbers
        self.conv_in, self.norm_out = CausalConv(inputs, width, sizes[0]), PixelNorm(width)
        self.conv_out = CausalConv(width, outputs, sizes[1])
        self.blocks = nn.ModuleList(CausalBlock(width) for _ in range(count))
        self.equalised = (sizes[1] ** 3 * width) ** -0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(x)
        for block in self.blocks:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)) * self.equalised)


class CausalAutoencoder(nn.Module):
    """Videos [B, T, Y, X, C], encoded and decoded."""

    def __init__(self, shape: dict):
        super().__init__()
        self.patch, self.latents = tuple(shape["patch"]), shape["latent_channels"]
        width, blocks = shape["width"], shape["blocks"]
        self.block = math.prod(self.patch) * shape["channels"]
        both = self.block, width, 2 * self.latents
        self.encoder = CausalHalf((1, 3), both, blocks)
        self.decoder = CausalHalf((3, 1), (self.latents, width, self.block), blocks)
        ways = {"analysis": (self.block, self.latents), "synthesis": (self.latents, self.block)}
        self.shortcut = nn.ModuleDict({name: CausalConv(*way) for name, way in ways.items()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = self.to_tubelets(x)
        straight = self.shortcut["analysis"](p * (27 * self.block) ** -0.5)
        z = self.encoder(p)[:, : self.latents] + straight
        straight = self.shortcut["synthesis"](z * (27 * self.latents) ** -0.5)
        return self.from_tubelets(self.decoder(z) + straight)

    def to_tubelets(self, x: torch.Tensor) -> torch.Tensor:
        steps, rows, columns = self.patch
        x = torch.cat([x[:, :1].expand(-1, steps - 1, -1, -1, -1), x], 1)
        batch, frames, height, width, channels = x.shape
        grid = frames // steps, height // rows, width // columns
        x = x.view(batch, grid[0], steps, grid[1], rows, grid[2], columns, channels)
        return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, *grid, -1).permute(0, 4, 1, 2, 3)

    def from_tubelets(self, x: torch.Tensor) -> torch.Tensor:
        grid = x.shape[2:]
        x = x.permute(0, 2, 3, 4, 1).reshape(len(x), *grid, *self.patch, -1)
        x = x.permute(0, 1, 4, 2, 5, 3, 6, 7)
        sides = [side * size for side, size in zip(grid, self.patch, strict=True)]
        return x.reshape(len(x), *sides, -1)[:, self.patch[0] - 1 :]


@torch.no_grad()
def copy_weights(network: nn.Module, weights: dict[str, np.ndarray]) -> None:
    """Fills a network with jaxgen's parameters, by path."""
    used = 0
    for name, module in network.named_modules():
        path = to_path(name)
        for own in module.parameters(recurse=False):
            used += own.numel()
        if isinstance(module, nn.Linear):
            kernel, bias = weights[f"{path}/kernel"], weights[f"{path}/bias"]
            if path.endswith("qkv"):  # [D, H, 3, K] there, [D, 3, H, K] here
                kernel, bias = kernel.swapaxes(1, 2), bias.swapaxes(0, 1)
            module.weight.copy_(torch.tensor(kernel.reshape(module.in_features, -1).T))
            module.bias.copy_(torch.tensor(bias.reshape(-1)))
        elif isinstance(module, nn.Conv3d):
            kernel = weights[f"{path}/kernel"].transpose(4, 3, 0, 1, 2)
            module.weight.copy_(torch.tensor(kernel))
            module.bias.copy_(torch.tensor(weights[f"{path}/bias"]))
        elif isinstance(module, PixelNorm):
            module.scale.copy_(torch.tensor(weights[f"{path}/scale"]))
    assert used == sum(array.size for array in weights.values())


def to_path(name: str) -> str:
    """jaxgen's name of a module."""
    for half, blocks in (("encoder", "down_0_block"), ("decoder", "up_0_block")):
        name = name.replace(f"{half}.blocks", f"{half}.{blocks}")
    return re.sub(r"\.(?=\d)", "_", name).replace(".", "/")


def make_run(
    task: dict, weights: dict[str, np.ndarray], arrays: dict[str, np.ndarray]
) -> Callable[[], np.ndarray]:
    """A run of PyTorch, as `benchmarks.video_jaxgen.make_jaxgen_run`."""
    shape, compressor = task["shape"], task["shape"]["kind"] == "compressor"
    network = CausalAutoencoder(shape) if compressor else VideoTransformer(shape)
    copy_weights(network, weights)
    if compressor:
        network = network.to(memory_format=torch.channels_last_3d)
    parameters = list(network.parameters())
    if task["side"] == "torch.compile":
        network = torch.compile(network)
    given = {name: torch.tensor(array) for name, array in arrays.items()}
    inputs = (given["z"],) if compressor else (given["z"], given["time"])
    if task["form"] == "train":
        return make_training(network, parameters, inputs, given["target"], task)

    @torch.inference_mode()
    def run() -> np.ndarray:
        z = given["z"]
        for time in task["times"]:
            if compressor:
                output = network(z)
            else:
                output = network(z, torch.full((len(z),), time))
                z = z - output / len(task["times"])
        return (output if compressor else z).numpy()

    return run


def make_training(
    network: nn.Module,
    parameters: list[nn.Parameter],
    inputs: tuple[torch.Tensor, ...],
    target: torch.Tensor,
    task: dict,
) -> Callable[[], np.ndarray]:
    """``run() -> losses`` of updates by AdamW on the squared error."""
    optimizer = torch.optim.AdamW(
        parameters, lr=task["learning rate"], weight_decay=0.0, fused=True
    )

    def run() -> np.ndarray:
        losses = []
        for _ in range(task["updates"]):
            loss = F.mse_loss(network(*inputs), target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses).numpy()

    return run
