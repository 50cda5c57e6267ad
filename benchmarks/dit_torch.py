"""The PyTorch side of benchmarks/dit.py: diffusers' DiT, its DDIM scheduler, a plain training step.

Run by benchmarks/dit.py, which talks to it over pipes; not a script of its own.
"""

import numpy as np
import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CHANNELS = 4
"""Channels of a latent; the network predicts twice as many: the noise, and its variance."""


def make_network(shape: dict, weights: str) -> DiTTransformer2DModel:
    """diffusers' DiT of a shape, with the weights of a safetensors file in diffusers' names."""
    from safetensors.torch import load_file

    network = DiTTransformer2DModel(
        num_attention_heads=shape["heads"],
        attention_head_dim=shape["width"] // shape["heads"],
        in_channels=CHANNELS,
        out_channels=2 * CHANNELS,
        num_layers=shape["depth"],
        sample_size=shape["side"],
        patch_size=shape["patch"],
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=shape["classes"],
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    network.load_state_dict(load_file(weights))
    return network


def channels_first(images: np.ndarray) -> torch.Tensor:
    """[B, Y, X, C] as [B, C, Y, X], on the device."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(DEVICE)


def make_sampling(
    network: torch.nn.Module,
    arrays: dict,
    steps: int,
    guidance: float,
    dtype: str,
    compiled: bool,
):
    """``run() -> latents``: guided DDIM as diffusers' DiTPipeline does it, on one doubled batch."""
    network = network.eval().to(DEVICE, getattr(torch, dtype))
    classes = network.config.num_embeds_ada_norm
    if compiled:
        network = torch.compile(network)
    noise = channels_first(arrays["noise"])
    labels = torch.from_numpy(arrays["labels"]).long().to(DEVICE)
    both = torch.cat([labels, torch.full_like(labels, classes)])
    scheduler = DDIMScheduler(clip_sample=False)  # linear betas, 1000 steps, as DiT's

    @torch.inference_mode()
    def run() -> np.ndarray:
        scheduler.set_timesteps(steps)
        latents = noise
        for t in scheduler.timesteps:
            twice = torch.cat([latents, latents]).to(getattr(torch, dtype))
            times = t.expand(len(twice)).to(DEVICE)
            output = network(twice, timestep=times, class_labels=both).sample[:, :CHANNELS]
            conditional, unconditional = output.float().chunk(2)
            noise_estimate = unconditional + guidance * (conditional - unconditional)
            latents = scheduler.step(noise_estimate, t, latents).prev_sample
        return latents.permute(0, 2, 3, 1).cpu().numpy()

    return run


def make_training(
    network: torch.nn.Module,
    arrays: dict,
    steps: int,
    learning_rate: float,
    dtype: str,
    compiled: bool,
):
    """``run()``: `steps` updates of AdamW on the squared error of the noise."""
    network = network.train().to(DEVICE)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=learning_rate, weight_decay=0.0, fused=True
    )
    if compiled:
        network = torch.compile(network)
    latents, noise = channels_first(arrays["latents"]), channels_first(arrays["noise"])
    labels = torch.from_numpy(arrays["labels"]).long().to(DEVICE)
    scheduler = DDIMScheduler()
    lower = torch.autocast(DEVICE, getattr(torch, dtype), enabled=dtype != "float32")

    def run() -> float:
        for _ in range(steps):
            times = torch.randint(1000, (len(latents),), device=DEVICE)
            z = scheduler.add_noise(latents, noise, times)
            with lower:
                output = network(z, timestep=times, class_labels=labels).sample[:, :CHANNELS]
            loss = torch.nn.functional.mse_loss(output.float(), noise)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    return run


def make_product(size: int, dtype: str):
    """``run()``: one [size, size] matrix product."""
    options = {"dtype": getattr(torch, dtype), "device": DEVICE}
    left, right = torch.randn(size, size, **options), torch.randn(size, size, **options)
    out = torch.empty(size, size, **options)

    def run() -> None:
        torch.mm(left, right, out=out)
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return run
