"""Images as tokens: squares of P x P pixels, row by row, each one vector (Dosovitskiy et al. 2021).

The numbers of a patch are ordered by row, column, channel; both the embedding of patches and the
output layer of the networks here use this order, which is that of DiT's published weights.
"""

from collections.abc import Sequence

from jaxtyping import Array, Float

from jaxgen.errors import InputError


def patch_grid(shape: Sequence[int], patch: int, channels: int | None = None) -> tuple[int, int]:
    """How many patches an image has down and across.

    Args:
      shape: the shape [B, Y, X, C] of images.
      patch: P.
      channels: C, checked where given.

    Raises:
      InputError: if the shape is no such thing, naming it.
    """
    wanted = f"[B, Y, X, {'C' if channels is None else channels}]"
    if len(shape) != 4:
        raise InputError(f"images have shape {tuple(shape)}, expected {wanted}")
    if channels is not None and shape[-1] != channels:
        raise InputError(
            f"images have shape {tuple(shape)} with {shape[-1]} channels, expected {wanted}"
        )
    height, width = shape[1:3]
    if not height or not width or height % patch or width % patch:
        raise InputError(
            f"images have shape {tuple(shape)}, expected {wanted} with height and width divisible "
            f"by the patch size {patch}"
        )
    return height // patch, width // patch


def patchify(z_BYXC: Float[Array, "B Y X C"], patch: int) -> Float[Array, "B L F"]:
    """Cuts images into patches: [B, Y, X, C] to [B, (Y/P) (X/P), P P C].

    Raises:
      InputError: if the patch size does not divide height and width.
    """
    rows, columns = patch_grid(z_BYXC.shape, patch)
    batch, channels = z_BYXC.shape[0], z_BYXC.shape[-1]
    z = z_BYXC.reshape(batch, rows, patch, columns, patch, channels)
    return z.swapaxes(2, 3).reshape(batch, rows * columns, patch * patch * channels)


def unpatchify(
    tokens_BLF: Float[Array, "B L F"], grid: tuple[int, int], patch: int
) -> Float[Array, "B Y X C"]:
    """The inverse of `patchify`.

    Args:
      tokens_BLF: [B, rows * columns, P P C].
      grid: (rows, columns).
      patch: P.

    Raises:
      InputError: if the shape does not fit grid and patch.
    """
    rows, columns = grid
    batch, length, numbers = tokens_BLF.shape
    if length != rows * columns or numbers % patch**2:
        raise InputError(
            f"patches have shape {tokens_BLF.shape}, expected [B, {rows * columns}, "
            f"{patch * patch} C] for a grid of {rows} x {columns} patches of size {patch}"
        )
    z = tokens_BLF.reshape(batch, rows, columns, patch, patch, -1)
    return z.swapaxes(2, 3).reshape(batch, rows * patch, columns * patch, -1)
