"""CLIP's text tower (Radford et al. 2021), alone the text encoder of Stable Diffusion.

::

    x       = table[ids] + positions
    states  = LN(blocks(x)),  each token seeing those before it
    pooled  = states[b, end token] W

The end token is the last that a text has, so its state has seen the whole of it. Weights of other
programs find it in one of two ways (``end_id``): OpenAI's vocabulary ends with it, so it has the
largest id; or it is the first with its id, which holds with tokens that were added later, too.
"""

import dataclasses
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Shaped

from jaxgen.encoders.causal_text import CausalTokens, TextTowerConfig
from jaxgen.encoders.encoded import Encoded, text_mask
from jaxgen.encoders.tower import tower_projection
from jaxgen.errors import InputError, can_be_checked
from jaxgen.nn.norms import LayerNorm

StateDepth = Literal["final", "penultimate"]


@dataclasses.dataclass(frozen=True)
class CLIPTextConfig(TextTowerConfig):
    """Options of the text tower; the defaults are those of ViT-B/32.

    Attributes:
      end_id: the id of the end token, of which the first counts; None: the largest id of a text.
      states: "final", behind the last block and the norm, or "penultimate", before the last block
        and without a norm, as SDXL's network takes them; the pooled vector is the same.
    """

    end_id: int | None = None
    states: StateDepth = "final"

    def __post_init__(self) -> None:
        """Validates the fields."""
        super().__post_init__()
        if self.end_id is not None and not 0 <= self.end_id < self.vocabulary:
            raise InputError(
                f"end_id is {self.end_id}, expected 0 to {self.vocabulary - 1}, or None"
            )
        if self.states not in get_args(StateDepth):
            raise InputError(f"states is {self.states!r}, expected final or penultimate")

    def check_input(
        self, ids_BL: Int[Array, "B L"], mask_BL: Shaped[Array, "B L"] | None = None
    ) -> None:
        """Refuses texts that are not for this tower.

        Raises:
          InputError: for ids outside the table, a text that is too long or has no end token, or a
            mask of another shape.
        """
        super().check_input(ids_BL, mask_BL)
        if self.end_id is not None and can_be_checked(ids_BL):
            missing = ~(np.asarray(ids_BL) == self.end_id).any(axis=1)
            if missing.any():
                raise InputError(
                    f"text {missing.argmax()} has no end token, expected an id {self.end_id}"
                )

    def example(self) -> tuple[Array, ...]:
        """What the network takes of one text: its end token alone."""
        return (jnp.full((1, 1), self.end_id or 0),)

    def make_model(self) -> "CLIPTextEncoder":
        """The network."""
        return CLIPTextEncoder(self)


class CLIPTextEncoder(CausalTokens):
    """From token ids to states and a pooled vector.

    Attributes:
      config: the options.
    """

    config: CLIPTextConfig

    def setup(self) -> None:
        """Makes the table, the blocks and the projection."""
        super().setup()
        self.final_norm = LayerNorm(self.config.epsilon)
        if self.config.projection is not None:
            self.projection = tower_projection(self.config)

    def __call__(
        self, ids_BL: Int[Array, "B L"], mask_BL: Shaped[Array, "B L"] | None = None
    ) -> Encoded:
        """States as the options say, and the pooled vector, projected where there is a projection.

        Args:
          ids_BL: token ids, the end token among them.
          mask_BL: 0 or False for padding, which then no other token sees. None: padding is seen by
            what follows it, as Stable Diffusion has it; the pooled vector does not depend on it.

        Raises:
          InputError: see `CLIPTextConfig.check_input`.
        """
        c = self.config
        c.check_input(ids_BL, mask_BL)
        seen_BL = text_mask(ids_BL, mask_BL)
        end_B = end_places(ids_BL, c.end_id)
        segments_BL = None if mask_BL is None else seen_BL.astype(jnp.int32)
        before_BLD, behind_BLD = self.last_two(ids_BL, segments_BL)
        states_BLD = self.final_norm(behind_BLD)
        pooled_BD = states_BLD[jnp.arange(len(states_BLD)), end_B]
        if c.projection is not None:
            pooled_BD = self.projection(pooled_BD)
        kept_BLD = states_BLD if c.states == "final" else before_BLD
        return Encoded(kept_BLD, seen_BL, pooled_BD)


def end_places(ids_BL: Int[Array, "B L"], end_id: int | None) -> Int[Array, "B"]:
    """Where the end token of each text is.

    Args:
      ids_BL: token ids.
      end_id: its id, of which the first counts; None: the largest id.
    """
    if end_id is None:
        return jnp.argmax(ids_BL, axis=1)
    return jnp.argmax(ids_BL == end_id, axis=1)
