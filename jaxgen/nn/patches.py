"""Data as tokens: images cut into squares, videos into tubelets, arrays of any rank into blocks.

A patch P has a side for each axis of the data: (P_y, P_x) of an image (Dosovitskiy et al. 2021),
(P_t, P_y, P_x) of a video, a tubelet (Arnab et al. 2021). Patches follow each other with the last
axis running fastest, and the numbers of a patch are ordered by its axes and then the channels: row,
column, channel. Both the embedding of patches and the output layer of the networks here use this
order, which is that of DiT's published weights.
"""

import math
from collections.abc import Sequence
from typing import Any

from jaxtyping import Shaped

from jaxgen.errors import InputError

Patch = int | Sequence[int]
"""A side for each axis; a number stands for both sides of an image's patch."""

AXES = {1: "[B, X, C]", 2: "[B, Y, X, C]", 3: "[B, T, Y, X, C]"}
NAMES = {1: ("width",), 2: ("height", "width"), 3: ("frames", "height", "width")}


def patch_sides(patch: Patch, axes: int) -> tuple[int, ...]:
    """The sides of a patch of data with so many axes.

    Raises:
      InputError: unless there is a side of 1 or more for each.
    """
    sides: tuple[Any, ...] = tuple(patch) if isinstance(patch, Sequence) else (patch,) * axes
    if len(sides) != axes or any(not isinstance(side, int) or side < 1 for side in sides):
        raise InputError(
            f"patch is {patch}, expected {axes} sides of 1 or more, one for each axis of the data"
        )
    return sides


def patch_grid(shape: Sequence[int], patch: Patch, channels: int | None = None) -> tuple[int, ...]:
    """How many patches an example has along each axis.

    Args:
      shape: the shape [B, *sizes, C] of data: [B, Y, X, C] of images, [B, T, Y, X, C] of videos.
      patch: the sides of a patch; a number stands for images.
      channels: C, checked where given.

    Raises:
      InputError: if the shape is no such thing, naming it.
    """
    axes = 2 if isinstance(patch, int) else len(patch)
    what = "videos" if axes == 3 else "images" if axes == 2 else "data"
    wanted = AXES.get(axes, f"[B, {axes} sizes, C]").replace("C", str(channels or "C"))
    if len(shape) != axes + 2:
        raise InputError(f"{what} have shape {tuple(shape)}, expected {wanted}")
    if channels is not None and shape[-1] != channels:
        raise InputError(
            f"{what} have shape {tuple(shape)} with {shape[-1]} channels, expected {wanted}"
        )
    sizes, sides = tuple(shape[1:-1]), patch_sides(patch, axes)
    if any(not size or size % side for size, side in zip(sizes, sides, strict=True)):
        names = " and ".join(NAMES.get(axes, ("sizes",)))
        shown = patch if isinstance(patch, int) else sides
        raise InputError(
            f"{what} have shape {tuple(shape)}, expected {wanted} with {names} divisible "
            f"by the patch size {shown}"
        )
    return tuple(size // side for size, side in zip(sizes, sides, strict=True))


def patchify(z: Shaped[Any, "B *sizes C"], patch: Patch) -> Shaped[Any, "B L F"]:
    """Cuts data into patches: [B, *sizes, C] to [B, L, F], F the product of sides and channels.

    Args:
      z: images [B, Y, X, C], videos [B, T, Y, X, C], or data of any other rank; of JAX or numpy.
      patch: the sides of a patch; a number stands for images.

    Raises:
      InputError: if a side does not divide a size.

    Example:
      >>> patchify(np.zeros((8, 32, 32, 4)), 2).shape
      (8, 256, 16)
      >>> patchify(np.zeros((1, 6, 16, 16, 3)), (2, 8, 8)).shape  # a video
      (1, 12, 384)
    """
    grid = patch_grid(z.shape, patch)
    sides, axes = patch_sides(patch, len(grid)), len(grid)
    cut = [size for pair in zip(grid, sides, strict=True) for size in pair]
    order = (0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1)
    z = z.reshape(len(z), *cut, z.shape[-1]).transpose(order)
    return z.reshape(len(z), math.prod(grid), math.prod(sides) * z.shape[-1])


def unpatchify(
    tokens_BLF: Shaped[Any, "B L F"], grid: Sequence[int], patch: Patch
) -> Shaped[Any, "B *sizes C"]:
    """The inverse of `patchify`.

    Args:
      tokens_BLF: [B, L, F].
      grid: patches along each axis, such as (rows, columns).
      patch: the sides of a patch.

    Raises:
      InputError: if the shape does not fit grid and patch.
    """
    axes, sides = len(grid), patch_sides(patch, len(grid))
    batch, length, numbers = tokens_BLF.shape
    volume = math.prod(sides)
    if length != math.prod(grid) or numbers % volume:
        raise InputError(
            f"patches have shape {tokens_BLF.shape}, expected [B, {math.prod(grid)}, {volume} C] "
            f"for a grid of {' x '.join(map(str, grid))} patches of size {patch}"
        )
    z = tokens_BLF.reshape(batch, *grid, *sides, -1)
    order = [0]
    for axis in range(1, axes + 1):
        order += [axis, axes + axis]
    z = z.transpose((*order, 2 * axes + 1))
    sizes = [count * side for count, side in zip(grid, sides, strict=True)]
    return z.reshape(batch, *sizes, -1)
