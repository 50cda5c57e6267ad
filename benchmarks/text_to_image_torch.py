"""The PyTorch side of benchmarks/text_to_image.py: diffusers' StableDiffusionPipeline.

Run by benchmarks/text_to_image.py, which talks to it over pipes; not a script of its own.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from benchmarks.dit_torch import DEVICE, channels_first, make_product


def make_torch_pipeline_run(
    task: dict[str, Any], prompts: list[str], noise: np.ndarray, scale: float, time: float
) -> Callable[[], np.ndarray]:
    """A run of diffusers; its results are numpy arrays with channels last, pixels in [-1, 1]."""
    if task["form"] == "product":
        product = make_product(task["product"], task["dtype"])
        return lambda: np.asarray(product() is None)
    dtype = getattr(torch, task["dtype"])
    folder = f"{task['folder']}/pipeline"
    pipeline = StableDiffusionPipeline.from_pretrained(folder).to(DEVICE, dtype)
    pipeline.set_progress_bar_config(disable=True)
    latents = channels_first(noise).to(dtype)

    def encode() -> torch.Tensor:
        return pipeline.encode_prompt(prompts, DEVICE, 1, False)[0]

    @torch.inference_mode()
    def run_text() -> np.ndarray:
        return encode().float().cpu().numpy()

    if task["form"] == "text":
        return run_text
    with torch.inference_mode():
        text = torch.cat([encode()] * 2)

    @torch.inference_mode()
    def run_step() -> np.ndarray:
        output = pipeline.unet(torch.cat([latents] * 2), time, text).sample
        return output.permute(0, 2, 3, 1).float().cpu().numpy()

    def run_image() -> np.ndarray:
        found = pipeline(
            prompts,
            num_inference_steps=task["steps"],
            guidance_scale=scale,
            latents=latents,
            height=8 * task["latents"],
            width=8 * task["latents"],
            output_type="np",
        )
        return 2 * found.images - 1

    return run_step if task["form"] == "step" else run_image
