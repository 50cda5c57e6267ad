"""Samples as files, one PNG each."""

import pathlib
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from experiments.shared.image_plots import write_png
from jaxgen.data import from_unit
from jaxgen.parallel import is_main_process


def write_samples(
    folder: pathlib.Path, x: Float[np.ndarray, "N Y X C"], names: Sequence[str]
) -> None:
    """One PNG for each image, in place of those of an earlier run."""
    if not is_main_process():
        return
    folder.mkdir(exist_ok=True)
    for file in folder.glob("*.png"):
        if re.fullmatch(r"\d{5}(_.*)?\.png", file.name):
            file.unlink()
    for i, (image, name) in enumerate(zip(from_unit(x), names, strict=True)):
        safe = re.sub(r"[^\w.-]+", "-", name)
        shown = np.repeat(image, 3, -1) if image.shape[-1] == 1 else image[..., :3]
        write_png(folder / (f"{i:05}_{safe}.png" if safe else f"{i:05}.png"), shown)
