"""The masked diffusion transformer (Gao et al. 2023): it also learns to denoise what it cannot see.

A DiT with adaLN-Zero blocks, cut into a deep encoder and a shallow decoder. In training it is used
twice on the same noisy images, and the losses of both are added: once as it is, and once with some
of the patches hidden (section 4)::

    full     decoder(encoder(x + p) + p')
    masked   k = encoder(visible tokens of x + p)            fewer tokens: the asymmetry
             u = k at the visible places, a learnt mask token at the hidden ones, + p'
             decoder(u at the visible places, side block(u) at the hidden ones)

p and p' are learnt positions that start as DiT's waves; every attention also has a learnt bias for
each offset between two patches. The side block, the "side-interpolater", is for training alone: a
trained network is a plain denoiser.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from jaxgen.errors import InputError
from jaxgen.nn.dense import Dense
from jaxgen.nn.embeddings import Condition
from jaxgen.nn.patches import patchify, unpatchify
from jaxgen.nn.positions import sincos_grid
from jaxgen.nn.relative import RelativeBias
from jaxgen.spacetime.dit import SIZES
from jaxgen.spacetime.transformer_blocks import DiTBlock, FinalLayer
from jaxgen.spacetime.transformer_config import GridConfig, check_wave_width, published_fields


@dataclasses.dataclass(frozen=True)
class MDTConfig(GridConfig):
    """Options of an MDT; the defaults are those of MDT-S/2.

    Attributes:
      decoder_depth: blocks of the decoder; the others are the encoder.
    """

    decoder_depth: int = 2

    training_method: ClassVar[str | None] = "full_and_masked"

    def __post_init__(self) -> None:
        """Validates the fields."""
        super().__post_init__()
        if not 1 <= self.decoder_depth < self.depth:
            raise InputError(
                f"decoder_depth is {self.decoder_depth}, expected 1 or more and less than "
                f"depth={self.depth}"
            )
        check_wave_width(self.width)

    @classmethod
    def named(cls, name: str, **changes: Any) -> "MDTConfig":
        """A published network: "MDT-S/2", "MDT-B/2" or "MDT-XL/2".

        Args:
          name: its name.
          **changes: fields that differ from it.

        Raises:
          InputError: for any other name.
        """
        sizes = {size: SIZES[size] for size in ("S", "B", "XL")}
        return cls(**{**published_fields(name, "MDT", sizes, [2]), **changes})

    def make_model(self) -> "MDT":
        """The network."""
        return MDT(self)


def visible_places(
    key: Key[Array, ""], batch: int, length: int, mask_ratio: float
) -> Int[Array, "B L"]:
    """Places that stay visible, drawn for each example without replacement.

    Args:
      key: randomness.
      batch: B, examples.
      length: places of the grid.
      mask_ratio: share of the places that is hidden; rounded so that at least one stays visible.

    Returns:
      [B, L'] places in ascending order, ``L' = max(1, int(length (1 - mask_ratio)))``.
    """
    kept = max(1, int(length * (1 - mask_ratio)))
    draws_BL = jax.random.uniform(key, (batch, length))
    return jnp.sort(jnp.argsort(draws_BL, axis=1)[:, :kept], axis=1)


class MDTBlock(nn.Module):
    """An adaLN-Zero block whose attention knows the offset between two patches.

    Attributes:
      config: the network's options.
    """

    config: MDTConfig

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        condition_BD: Float[Array, "B D"],
        places_BL: Int[Array, "B L"] | None = None,
    ) -> Float[Array, "B L D"]:
        """[B, L, D] to [B, L, D].

        Args:
          x_BLD: tokens.
          condition_BD: the embedding of time and class.
          places_BL: where the tokens stand, numbered row by row; None for the whole grid.
        """
        bias = RelativeBias(self.config.heads, self.config.grid, name="relative")(places_BL)
        return DiTBlock(self.config, name="block")(x_BLD, condition_BD, bias=bias)


class MDT(nn.Module):
    """A denoiser: noisy images, times and labels to predictions.

    Attributes:
      config: the options.
    """

    config: MDTConfig

    def setup(self) -> None:
        """Makes the embeddings, encoder, side block, decoder and final layer."""
        c = self.config
        named = nn.with_logical_partitioning
        self.patch_embedding = Dense((c.width,), ("patch", "embed"), c.dtype)
        self.condition = Condition(c.width, c.num_classes, c.null_class, c.class_dropout)
        waves = named(lambda key: jnp.asarray(sincos_grid(c.grid, c.width)), ("positions", "embed"))
        self.encoder_positions = self.param("encoder_positions", waves)
        self.decoder_positions = self.param("decoder_positions", waves)
        block = nn.remat(MDTBlock) if c.remat else MDTBlock
        self.encoder = [block(c) for _ in range(c.depth - c.decoder_depth)]
        self.decoder = [block(c) for _ in range(c.decoder_depth)]
        self.side = block(c)
        self.mask_token = self.param(
            "mask_token", named(nn.initializers.normal(0.02), ("embed",)), (c.width,)
        )
        self.final = FinalLayer(c)

    def __call__(
        self,
        z_BYXC: Float[Array, "B Y X C"],
        time_B: Float[Array, "B"],
        label_B: Int[Array, "B"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "B Y X C_out"]:
        """The per-pixel prediction with all patches visible.

        Args:
          z_BYXC: [B, Y, X, in_channels] noisy images of the size ``input_size``.
          time_B: [B] times; the frequencies are made for 0 to 1000.
          label_B: [B] class ids, ``num_classes`` for the null class; None without classes.
          train: whether labels are dropped, which needs the random stream "dropout".

        Returns:
          [B, Y, X, out_channels] in float32.

        Raises:
          InputError: for shapes that do not fit the network.
        """
        x_BLD, condition_BD = self._embed(z_BYXC, time_B, label_B, train)
        if self.is_initializing():  # the parameters that only training uses are made here too
            self._masked(x_BLD, condition_BD, jnp.zeros((z_BYXC.shape[0], 1), jnp.int32))
        return self._full(x_BLD, condition_BD)

    def full_and_masked(
        self,
        z_BYXC: Float[Array, "B Y X C"],
        time_B: Float[Array, "B"],
        label_B: Int[Array, "B"] | None = None,
        *,
        mask_ratio: float = 0.3,
        train: bool = True,
    ) -> tuple[Float[Array, "B Y X C_out"], Float[Array, "B Y X C_out"]]:
        """What training compares with the target: both predictions for the whole image.

        The loss of the paper is the sum of the losses of both. Which patches are hidden is drawn
        from the random stream "mask"; labels are dropped for both alike.

        Args:
          z_BYXC: as for `__call__`.
          time_B: as for `__call__`.
          label_B: as for `__call__`.
          mask_ratio: share of the patches that is hidden, 0.3 in the paper.
          train: as for `__call__`.

        Returns:
          The prediction with all patches visible, and that with some hidden.

        Raises:
          InputError: as `__call__`; and for a ratio outside of [0, 1).
        """
        if not 0 <= mask_ratio < 1:
            raise InputError(f"mask_ratio is {mask_ratio}, expected 0 <= mask_ratio < 1")
        x_BLD, condition_BD = self._embed(z_BYXC, time_B, label_B, train)
        batch, length, _ = x_BLD.shape
        places_BL = visible_places(self.make_rng("mask"), batch, length, mask_ratio)
        return self._full(x_BLD, condition_BD), self._masked(x_BLD, condition_BD, places_BL)

    def _embed(
        self, z_BYXC: Array, time_B: Array, label_B: Array | None, train: bool
    ) -> tuple[Array, Array]:
        """Tokens with the encoder's positions, and the embedding of the condition."""
        c = self.config
        c.check_input(z_BYXC, time_B, label_B)
        x_BLD = self.patch_embedding(patchify(z_BYXC, c.patch)).astype(jnp.float32)
        condition_BD = self.condition.sum(time_B, label_B, train=train)
        return x_BLD + self.encoder_positions, condition_BD

    def _full(self, x_BLD: Array, condition_BD: Array) -> Array:
        for block in self.encoder:
            x_BLD = block(x_BLD, condition_BD)
        return self._decode(x_BLD + self.decoder_positions, condition_BD)

    def _masked(self, x_BLD: Array, condition_BD: Array, places_BL: Array) -> Array:
        """The prediction from the tokens at some places alone."""
        visible_BLD = jnp.take_along_axis(x_BLD, places_BL[..., None], axis=1)
        for block in self.encoder:
            visible_BLD = block(visible_BLD, condition_BD, places_BL)
        filled_BLD = jnp.broadcast_to(self.mask_token, x_BLD.shape)
        filled_BLD = _put(filled_BLD, places_BL, visible_BLD) + self.decoder_positions
        seen_BL = _put(jnp.zeros(x_BLD.shape[:2], bool), places_BL, jnp.ones(places_BL.shape, bool))
        guessed_BLD = self.side(filled_BLD, condition_BD)
        x_BLD = jnp.where(seen_BL[..., None], filled_BLD, guessed_BLD)
        return self._decode(x_BLD, condition_BD)

    def _decode(self, x_BLD: Array, condition_BD: Array) -> Array:
        for block in self.decoder:
            x_BLD = block(x_BLD, condition_BD)
        outputs_BLF = self.final(x_BLD, condition_BD)
        return unpatchify(outputs_BLF, self.config.grid, self.config.patch)


def _put(x_BL: Array, places_BL: Array, values_BL: Array) -> Array:
    """Each example with new values [L', ...] at some of its places [L'], no place named twice.

    Mapped over the examples, and not indexed by them: XLA then sees that none needs another's, and
    a batch that is spread over devices stays where it is.
    """

    def put(x: Array, places: Array, values: Array) -> Array:
        return x.at[places].set(values, unique_indices=True)

    return jax.vmap(put)(x_BL, places_BL, values_BL)
