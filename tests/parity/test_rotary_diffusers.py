"""Rotary positions in three dimensions against those of diffusers' networks."""

import importlib

import numpy as np
import pytest

from jaxgen.nn import grid_places, rotary_angles, rotary_split, rotate
from jaxgen.nn.video_rotary import clip_spacing, rotary_form, video_angles

torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")
pytest.importorskip("diffusers", reason="diffusers (the [parity] extra) is not installed")

GRID = (3, 4, 5)


def reference(name):
    """A module of diffusers."""
    return importlib.import_module(f"diffusers.models.{name}")


def compare(angle_LK, cos, sin, atol=1e-6):
    """Every angle stands for a pair of numbers of the head, and is there twice."""
    for wave, theirs in ((np.cos, cos), (np.sin, sin)):
        np.testing.assert_allclose(np.repeat(wave(angle_LK), 2, axis=-1), theirs, atol=atol)


@pytest.mark.parametrize("head", [128, 40])
def test_angles_are_wans(head):
    patch = (1, 2, 2)
    module = reference("transformers.transformer_wan").WanRotaryPosEmbed(
        head, patch, max_seq_len=64
    )
    sizes = [side * count for side, count in zip(patch, GRID, strict=True)]
    cos, sin = module(torch.zeros(1, 1, *sizes))
    compare(rotary_angles(grid_places(GRID), rotary_split(head)), cos[0, :, 0], sin[0, :, 0])
    compare(video_angles(grid_places(GRID), "wan", 2, head), cos[0, :, 0], sin[0, :, 0])


@pytest.mark.parametrize("head", [128, 32])
def test_angles_are_hunyuans(head):
    split, theta = rotary_form("hunyuan", head)
    if head == 128:
        assert split == (16, 56, 56)
    module = reference("transformers.transformer_hunyuan_video").HunyuanVideoRotaryPosEmbed(
        2, 1, list(split), theta
    )
    cos, sin = module(torch.zeros(1, 1, GRID[0], 2 * GRID[1], 2 * GRID[2]))
    compare(video_angles(grid_places(GRID), "hunyuan", 2, head), cos, sin, atol=2e-6)


def test_angles_are_cogvideoxs():
    """Places go from the corner of the crop, scaled to the grid of training: a spacing."""
    embeddings = reference("embeddings")
    (top, left), (bottom, right) = crop = (2, 0), (26, 45)
    cos, sin = embeddings.get_3d_rotary_pos_embed(64, crop, GRID[1:], GRID[0])
    spacing = np.array([1, bottom / GRID[1], right / GRID[2]])
    start = top * (1 - np.arange(GRID[1]) / (GRID[1] - 1))  # the end of their line has no start
    place = grid_places(GRID) * spacing
    rows = np.linspace(top, bottom * (GRID[1] - 1) / GRID[1], GRID[1])
    place[:, 1] = rows[grid_places(GRID)[:, 1]]
    assert left == 0
    assert start[0] == top
    compare(video_angles(place, "cogvideox", 2, 64), cos, sin, atol=5e-6)
    cos, sin = embeddings.get_3d_rotary_pos_embed(64, ((0, 0), (30, 45)), GRID[1:], GRID[0])
    place = grid_places(GRID) * np.array([1, 30 / GRID[1], 45 / GRID[2]])
    compare(video_angles(place, "cogvideox", 2, 64), cos, sin, atol=5e-6)


@pytest.mark.parametrize(("heads", "head"), [(4, 64), (2, 16), (2, 18)])
def test_angles_and_turned_queries_are_ltxs(heads, head):
    """Seconds and pixels: 8 frames at 25 a second and 32 x 32 pixels to a token."""
    transformer_ltx = reference("transformers.transformer_ltx")
    width, scale = heads * head, (8 / 25, 32, 32)
    module = transformer_ltx.LTXVideoRotaryPosEmbed(width)
    x = torch.randn(1, int(np.prod(GRID)), width, generator=torch.Generator().manual_seed(0))
    cos, sin = module(x, *GRID, scale)
    spacing = clip_spacing(25.0, reference_fps=1.0, patch=(8, 32, 32))
    np.testing.assert_allclose(spacing, scale)
    angle = np.asarray(video_angles(grid_places(GRID) * spacing, "ltx", heads, head))
    flat = angle.reshape(*angle.shape[:2], -1)
    # Angles reach 15,700, where float32 tells 0.001 apart.
    compare(flat[0].astype(np.float64), cos[0], sin[0], atol=3e-3)
    expected = transformer_ltx.apply_rotary_emb(x, (cos, sin)).numpy()
    found = np.asarray(rotate(x.numpy().reshape(1, -1, heads, head), angle))
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-2)
