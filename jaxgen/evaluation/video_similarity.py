"""How close the motion of a video is to a reference, whatever its frames look like."""

import numpy as np
from jaxtyping import Float

from jaxgen.errors import InputError


def temporal_difference_error(
    a: Float[np.ndarray, "*B T Y X C"], b: Float[np.ndarray, "*B T Y X C"]
) -> float:
    """``sqrt(mean (d a - d b)^2)`` with ``d a`` the differences of consecutive frames.

    Flicker and lost motion count, a constant error does not. It has the unit of the pixels.

    Args:
      a: videos.
      b: those they are compared with.

    Raises:
      InputError: for shapes that differ, or fewer than two frames.
    """
    if a.shape != b.shape or a.ndim < 4 or a.shape[-4] < 2:
        raise InputError(
            f"videos have shapes {a.shape} and {b.shape}, expected one, with two frames or more"
        )
    error = np.asarray(a, np.float32) - np.asarray(b, np.float32)
    return float(np.sqrt(np.mean(np.square(np.diff(error, axis=-4)), dtype=np.float64)))
