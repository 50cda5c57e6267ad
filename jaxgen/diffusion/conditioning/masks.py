"""Masks: which pixels are known (1) and which are to be made (0), float32.

Values between are *soft*: what is known and what is made are blended in those shares
(`keep_known`), as the feathered edges of painting programs are.

Boxes and frames broadcast against images [B, Y, X, C] and videos [B, T, Y, X, C]. Random ones take
the keys of the examples, so a mask depends on its example alone; they are for images, and for all
frames of a video with an axis more: ``mask_BYX1[:, None]``.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Shaped

from jaxgen.errors import InputError, can_be_checked
from jaxgen.pixels import as_data, as_unit


def keep_known(
    known: Shaped[Array, "..."], x: Shaped[Array, "B ..."], made: Shaped[Array, "B ..."]
) -> Float[Array, "B ..."]:
    """m x + (1 - m) made: x where it is known, what was made elsewhere, blended by soft masks.

    Args:
      known: m, a mask that broadcasts against both, of 0 to 1 (or of booleans).
      x: of which the known part is taken; where m is 0 it may be anything, even nan.
      made: of the same shape; where m is 1 likewise.

    Raises:
      InputError: for a mask that does not broadcast against the data, or with values outside of
        [0, 1].
    """
    check_mask(known, jnp.shape(made))
    dtype = jnp.result_type(x, made)
    share = jnp.asarray(known).astype(dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.float32)
    return share * jnp.where(share > 0, x, 0) + (1 - share) * jnp.where(share < 1, made, 0)


def check_mask(known: Shaped[Array, "..."], shape: tuple[int, ...]) -> None:
    """Refuses what is no mask of data of a shape; values are looked at where they can be.

    Raises:
      InputError: naming the shapes, or the values.
    """
    sizes = zip(reversed(jnp.shape(known)), reversed(shape), strict=False)
    if jnp.ndim(known) > len(shape) or any(size not in (1, whole) for size, whole in sizes):
        raise InputError(
            f"known has shape {jnp.shape(known)} for data of shape {shape}, expected a mask that "
            "broadcasts against them"
        )
    if can_be_checked(known):
        values = np.asarray(known, np.float32)
        if not ((values >= 0) & (values <= 1)).all():
            raise InputError(
                f"known has values from {values.min():.4g} to {values.max():.4g}, expected a mask "
                "of 0 (to be made) to 1 (known)"
            )


def known_data(known: Shaped[Array, "..."], x: Shaped[Array, "B ..."]) -> Float[Array, "B ..."]:
    """Data of which a part is known, as real numbers; that part alone is checked.

    Raises:
      InputError: as `check_mask` and `jaxgen.pixels.as_data`.
    """
    check_mask(known, jnp.shape(x))
    if can_be_checked(known, x):
        data = np.asarray(x)
        as_data(np.where(np.asarray(known) > 0, data, np.zeros((), data.dtype)))
    return as_unit(x, "x", limit=math.inf)


def known_channels(
    x: Shaped[Array, "B ... C"], known: Shaped[Array, "..."]
) -> Float[Array, "B ... C2"]:
    """What is known and the mask as C + 1 channels, [m x, m], for a network that fills in the rest.

    Args:
      x: images or videos; what is not known may be anything.
      known: m, which broadcasts against x.
    """
    x = as_data(x).astype(jnp.float32)
    mask = jnp.broadcast_to(jnp.asarray(known, jnp.float32), (*x.shape[:-1], 1))
    return jnp.concatenate([keep_known(known, x, jnp.zeros_like(x)), mask], axis=-1)


def box_mask(
    size: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
) -> Float[Array, "Y X 1"]:
    """Everything known but the box of rows and columns ``first <= i < last``.

    Raises:
      InputError: for a box that is empty or not within the image.
    """
    for name, (first, last), most in zip(("rows", "columns"), (rows, columns), size, strict=True):
        if not 0 <= first < last <= most:
            raise InputError(f"{name} is {(first, last)}, expected 0 <= first < last <= {most}")
    mask_YX1 = np.ones((*size, 1), np.float32)
    mask_YX1[slice(*rows), slice(*columns)] = 0
    return jnp.asarray(mask_YX1)


def frame_mask(frames: int, known: Sequence[int]) -> Float[Array, "T 1 1 1"]:
    """The frames of a video that are known, by their numbers.

    Raises:
      InputError: for a frame that the video does not have.
    """
    for number in known:
        if not 0 <= number < frames:
            raise InputError(f"known frame {number}, expected 0 to {frames - 1}")
    mask_T = np.zeros(frames, np.float32)
    mask_T[list(known)] = 1
    return jnp.asarray(mask_T)[:, None, None, None]


def random_boxes(
    keys_B: Key[Array, "B"], size: tuple[int, int], least: float = 0.25, most: float = 0.75
) -> Float[Array, "B Y X 1"]:
    """A box to be made in each image, its sides uniform between two shares of the image's.

    Raises:
      InputError: unless 0 < least <= most <= 1.
    """
    if not 0 < least <= most <= 1:
        raise InputError(f"least is {least}, most is {most}, expected 0 < least <= most <= 1")

    def box(key: Key[Array, ""]) -> Float[Array, "Y X 1"]:
        side_key, place_key = jax.random.split(key)
        whole = jnp.array(size, jnp.float32)
        sides = jnp.ceil(whole * jax.random.uniform(side_key, (2,), minval=least, maxval=most))
        first = jnp.floor(jax.random.uniform(place_key, (2,)) * (whole - sides + 1))
        inside_Y, inside_X = (
            (jnp.arange(size[i]) >= first[i]) & (jnp.arange(size[i]) < first[i] + sides[i])
            for i in range(2)
        )
        return 1 - (inside_Y[:, None] & inside_X)[..., None].astype(jnp.float32)

    return jax.vmap(box)(keys_B)


def random_strokes(
    keys_B: Key[Array, "B"],
    size: tuple[int, int],
    strokes: int = 4,
    turns: int = 6,
    width: float = 0.12,
) -> Float[Array, "B Y X 1"]:
    """Free-form masks: brush strokes to be made (in the manner of Yu et al. 2019, algorithm 1).

    Each stroke starts anywhere and continues in straight pieces of random length that turn at
    random.

    Args:
      keys_B: the examples' keys.
      size: Y and X.
      strokes: strokes in an image.
      turns: straight pieces of a stroke.
      width: of the widest brush, as a share of the shorter side; the thinnest has half of it.

    Raises:
      InputError: unless strokes and turns are at least 1 and 0 < width <= 1.
    """
    for name, count in (("strokes", strokes), ("turns", turns)):
        if count < 1:
            raise InputError(f"{name} is {count}, expected at least 1")
    if not 0 < width <= 1:
        raise InputError(f"width is {width}, expected 0 < width <= 1")
    shorter = min(size)
    pixels_YX2 = jnp.stack(jnp.meshgrid(*map(jnp.arange, size), indexing="ij"), -1) * 1.0

    def paint(key: Key[Array, ""]) -> Float[Array, "Y X 1"]:
        start, angle, turn, reach, brush = jax.random.split(key, 5)
        first_S12 = jax.random.uniform(start, (strokes, 1, 2)) * (jnp.array(size) - 1.0)
        angle_S1 = jax.random.uniform(angle, (strokes, 1), maxval=2 * jnp.pi)
        turn_SN = jax.random.uniform(turn, (strokes, turns), minval=-2.0, maxval=2.0)
        way_SN = angle_S1 + jnp.cumsum(turn_SN, 1)
        reach_SN = shorter * jax.random.uniform(reach, (strokes, turns), minval=0.1, maxval=0.3)
        step_SN2 = reach_SN[..., None] * jnp.stack([jnp.sin(way_SN), jnp.cos(way_SN)], -1)
        end_SN2 = first_S12 + jnp.cumsum(step_SN2, 1)
        radius_S = shorter * width / 2 * jax.random.uniform(brush, (strokes,), minval=0.5)
        # A brush of less than a pixel could miss them all.
        radius_SN = jnp.broadcast_to(jnp.maximum(radius_S, 0.75)[:, None], (strokes, turns))

        def add(painted_YX, piece):
            begin_2, step_2, radius = piece
            offset_YX2 = pixels_YX2 - begin_2
            along_YX = jnp.clip(offset_YX2 @ step_2 / (step_2 @ step_2), 0.0, 1.0)
            distance_YX = jnp.linalg.norm(offset_YX2 - along_YX[..., None] * step_2, axis=-1)
            return painted_YX | (distance_YX <= radius), None

        pieces = ((end_SN2 - step_SN2).reshape(-1, 2), step_SN2.reshape(-1, 2), radius_SN.ravel())
        painted_YX, _ = jax.lax.scan(add, jnp.zeros(size, bool), pieces)
        return 1 - painted_YX[..., None].astype(jnp.float32)

    return jax.vmap(paint)(keys_B)


def random_borders(
    keys_B: Key[Array, "B"], size: tuple[int, int], share: float = 0.5
) -> Float[Array, "B Y X 1"]:
    """What uncropping has to make: one of the four sides, or all four (Saharia et al. 2022).

    Args:
      keys_B: the examples' keys.
      size: Y and X.
      share: of the area that is to be made, to the nearest row and column.

    Raises:
      InputError: unless 0 < share < 1, or where nothing would be known or nothing made.
    """
    if not 0 < share < 1:
        raise InputError(f"share is {share}, expected 0 < share < 1")
    height, width = size
    tall, wide = round(height * (1 - share)), round(width * (1 - share))
    inner = [round(length * math.sqrt(1 - share)) for length in size]
    if not (0 < tall < height and 0 < wide < width):
        raise InputError(
            f"share is {share} of {height} x {width}, expected pixels to make and to keep"
        )
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    boxes = [  # of what is known: rows, then columns
        ((0, tall), (0, width)),
        ((height - tall, height), (0, width)),
        ((0, height), (0, wide)),
        ((0, height), (width - wide, width)),
        ((top, top + inner[0]), (left, left + inner[1])),
    ]
    masks_NYX1 = jnp.stack([1 - box_mask(size, *box) for box in boxes])
    # All four sides as often as any one of them.
    chosen_B = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(boxes)))(keys_B)
    return masks_NYX1[chosen_B]
