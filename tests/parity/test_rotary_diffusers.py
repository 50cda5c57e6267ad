"""Rotary positions in three dimensions against those of diffusers' Wan."""

import numpy as np
import pytest

from jaxgen.nn import grid_places, rotary_angles, rotary_split

torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")
transformer_wan = pytest.importorskip(
    "diffusers.models.transformers.transformer_wan",
    reason="diffusers (the [parity] extra) is not installed",
)


@pytest.mark.parametrize("head", [128, 40])
def test_angles_are_wans(head):
    patch, grid = (1, 2, 2), (3, 4, 5)
    module = transformer_wan.WanRotaryPosEmbed(head, patch, max_seq_len=64)
    sizes = [side * count for side, count in zip(patch, grid, strict=True)]
    cos, sin = module(torch.zeros(1, 1, *sizes))
    angle_LK = rotary_angles(grid_places(grid), rotary_split(head))
    for wave, theirs in ((np.cos, cos), (np.sin, sin)):
        # Every angle stands for a pair of numbers of the head, and is there twice.
        ours = np.repeat(wave(angle_LK), 2, axis=-1)
        np.testing.assert_allclose(ours, theirs[0, :, 0], atol=1e-6)
