"""What encoders of texts and images return, and the start that they have in common."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxgen.errors import InputError, can_be_checked
from jaxgen.typing import Tree


class Encoded(NamedTuple):
    """Texts or images as an encoder gives them to other networks.

    Attributes:
      states_BLD: a vector for each token, float32.
      mask_BL: True where a token is no padding.
      pooled_BD: one vector for each example, float32.
    """

    states_BLD: Float[Array, "B L D"]
    mask_BL: Bool[Array, "B L"]
    pooled_BD: Float[Array, "B D2"]


def encoder_init(config: Any) -> Callable[[Array], Tree]:
    """``key -> parameters``, with logical axes, of an encoder.

    Args:
      config: of an encoder or of a CLIP, with the inputs of one example, ``example()``.
    """
    model, inputs = config.make_model(), config.example()
    return lambda key: model.init(key, *inputs)["params"]


def make_encoder(config: Any, params: Tree) -> Callable[..., Encoded]:
    """``encode(ids, mask)`` or ``encode(images)`` with parameters, compiled once for each shape.

    Args:
      config: of an encoder: `CLIPTextConfig`, `CLIPImageConfig`, `T5Config`. Of a CLIP, those of
        its towers: ``make_encoder(config.text, params["text"])``.
      params: its parameters.

    Returns:
      A function from what the model takes, arrays or nested lists, to `Encoded`; it refuses what
      the model does not take, values too, which a compiled program cannot look at.
    """

    def encode(*inputs: Any) -> Encoded:
        arrays = [_as_array(each) if isinstance(each, list | tuple) else each for each in inputs]
        config.check_input(*arrays)
        return _encode(params, *arrays, config=config)

    return encode


def _as_array(rows: list[Any] | tuple[Any, ...]) -> np.ndarray:
    """Nested lists as an array."""
    try:
        return np.asarray(rows)
    except ValueError as error:
        raise InputError("inputs are rows of different lengths, expected an array") from error


@functools.partial(jax.jit, static_argnames="config")
def _encode(params: Tree, *inputs: Any, config: Any) -> Encoded:
    """Compiled once for equal configurations and shapes."""
    return config.make_model().apply({"params": params}, *inputs)


class TokenEmbedding(nn.Module):
    """A row of a table for each id.

    Attributes:
      rows: V; ids are 0 to V - 1.
      width: D, of a row.
      deviation: of the initial numbers.
    """

    rows: int
    width: int
    deviation: float

    @nn.compact
    def __call__(self, ids_BL: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """The rows of ids, in float32."""
        initial = nn.initializers.normal(self.deviation)
        named = nn.with_logical_partitioning(initial, ("words", "embed"))
        table_VD = self.param("table", named, (self.rows, self.width))
        return jnp.asarray(table_VD, jnp.float32)[ids_BL]


def check_token_ids(
    ids_BL: Int[Array, "B L"],
    mask_BL: Shaped[Array, "B L"] | None,
    vocabulary: int,
    longest: int | None = None,
) -> None:
    """Refuses what are no token ids of an encoder, or no mask of them.

    Args:
      ids_BL: the ids.
      mask_BL: the mask or None.
      vocabulary: V.
      longest: the most tokens that the encoder takes; None: any number.

    Raises:
      InputError: for ids that are no integers [B, L] below V (where values can be looked at), a
        text that is too long, texts of no tokens, or a mask of another shape.
    """
    if ids_BL.ndim != 2 or not jnp.issubdtype(ids_BL.dtype, jnp.integer):
        raise InputError(
            f"ids have type {ids_BL.dtype} and shape {ids_BL.shape}, expected integers [B, L]"
        )
    if not ids_BL.shape[1]:
        raise InputError(f"ids have shape {ids_BL.shape}, expected 1 token or more")
    if longest is not None and ids_BL.shape[1] > longest:
        raise InputError(
            f"ids have shape {ids_BL.shape}, expected at most {longest} tokens, for which the "
            "encoder has positions"
        )
    if can_be_checked(ids_BL):
        values = np.asarray(ids_BL)
        if values.size and not 0 <= values.min() <= values.max() < vocabulary:
            raise InputError(
                f"ids are {values.min()} to {values.max()}, expected 0 to {vocabulary - 1}, the "
                "rows of the table"
            )
    if mask_BL is not None and mask_BL.shape != ids_BL.shape:
        raise InputError(
            f"mask has shape {mask_BL.shape}, expected {ids_BL.shape}, that of the ids"
        )


def text_mask(
    ids_BL: Int[Array, "B L"], mask_BL: Shaped[Array, "B L"] | None
) -> Bool[Array, "B L"]:
    """The mask as booleans; True everywhere where there is none."""
    if mask_BL is None:
        return jnp.ones(ids_BL.shape, bool)
    return jnp.asarray(mask_BL) != 0
