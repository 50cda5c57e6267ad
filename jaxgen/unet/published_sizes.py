"""What published U-Nets differ in: options of `jaxgen.unet.UNetConfig`."""

from typing import Any

ADM: dict[int, dict[str, Any]] = {
    64: {
        "channels": (192, 384, 576, 768),
        "blocks": 3,
        "attention_levels": (1, 2, 3),
        "dropout": 0.1,
    },
    128: {
        "channels": (256, 256, 512, 768, 1024),
        "attention_levels": (2, 3, 4),
        "heads": 4,
        "head_size": None,
    },
    256: {"channels": (256, 256, 512, 512, 1024, 1024), "attention_levels": (3, 4, 5)},
}
"""The class-conditional ImageNet networks of Dhariwal & Nichol 2021, by the side of the image."""


def _of_videos(channels: tuple[int, ...], blocks: int = 2) -> dict[str, Any]:
    """Attention at 32, 16 and 8 pixels, heads of 64 channels, a condition of width 1024."""
    return {
        "temporal": True,
        "channels": channels,
        "blocks": blocks,
        "attention_levels": (1, 2, 3),
        "head_size": 64,
        "embedding": 1024,
    }


VIDEO_DIFFUSION: dict[str, dict[str, Any]] = {
    "ucf101": _of_videos((256, 512, 1024, 2048)),
    "bair": _of_videos((128, 256, 384, 512), blocks=3),
    "kinetics": _of_videos((256, 512, 1024, 2048)),
    "text": _of_videos((128, 256, 512, 1024)),
}
"""The networks of Ho et al. 2022 for videos of 16 x 64 x 64, by their data (their appendix)."""

_STABLE_DIFFUSION: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "channels": (320, 640, 1280, 1280),
    "attention_levels": (0, 1, 2),
    "head_size": None,
    "adaptive_norm": False,
    "downsampling": "conv",
    "upsampling": "conv",
}

STABLE_DIFFUSION: dict[str, dict[str, Any]] = {
    "1": {**_STABLE_DIFFUSION, "text_width": 768, "heads": 8},
    "2": {
        **_STABLE_DIFFUSION,
        "text_width": 1024,
        "heads": (5, 10, 20, 20),
        "linear_projection": True,
    },
    "xl": {
        **_STABLE_DIFFUSION,
        "channels": (320, 640, 1280),
        "attention_levels": (1, 2),
        "text_width": 2048,
        "pooled_width": 1280 + 6 * 256,
        "heads": (5, 10, 20),
        "transformer_depth": (1, 2, 10),
        "linear_projection": True,
    },
}
"""The networks of Rombach et al. 2022 that were published under this name, and SDXL's (Podell et
al. 2023), whose vector of a text has the waves of size and crop behind it."""
