"""A compressor as a configuration: a network, a bottleneck between its halves, and what latents are
divided by.

    h = network.encode(x)      numbers of each latent position
    z = bottleneck(h)          what is kept of them: KL, VQ, FSQ or LFQ (`compressors.bottlenecks`)
    x^ = network.decode(z)

Latent models are trained on latents of mean 0 and variance 1 (Rombach et al. 2022, section 4.3.2):
``(z - mean) / deviation`` for each channel, with statistics that are stored beside the weights as
``params["statistics"]``. Networks of images take the frames of a video as a batch.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.errors import InputError
from jaxgen.typing import Tree

NETWORK, BOTTLENECK, STATISTICS = "network", "bottleneck", "statistics"
CODEBOOK = "codebook"
"""Parameters by part; a codebook that is a moving average is a part of its own."""


@dataclasses.dataclass(frozen=True)
class Compressor:
    """A compressor with its parameters closed over; what latent models and token models take.

    Attributes:
      encode: ``x [B, ..., C] -> latents [B, ..., latent channels]``, of mean 0 and variance 1 where
        the parameters hold statistics; images [B, Y, X, C] or videos [B, T, Y, X, C] in [-1, 1].
      decode: its reverse; latents to x^.
      grid: sides of data -> sides of latents: ``grid((17, 64, 64))`` is (5, 8, 8), say.
      channels: of latents.
      codebook_size: how many codes there are; None where latents are continuous.
      codes: ``x -> codes``, int32 of the latents' grid; None where latents are continuous.
      from_codes: ``codes -> x^``; None where latents are continuous.
    """

    encode: Callable[[Array], Array]
    decode: Callable[[Array], Array]
    grid: Callable[[tuple[int, ...]], tuple[int, ...]]
    channels: int
    codebook_size: int | None = None
    codes: Callable[[Array], Array] | None = None
    from_codes: Callable[[Array], Array] | None = None


@dataclasses.dataclass(frozen=True)
class CompressorConfig:
    """A compressor without its parameters.

    Attributes:
      network: the configuration of the network, with ``make_model()``, ``latent_grid(grid)``,
        ``latent_channels`` and ``encoder_channels``.
      bottleneck: the configuration of the bottleneck, which has to have the same channels.
      shape: of the data that parameters are initialised with: Y, X, C of images, T, Y, X, C of
        videos; other sizes are compressed as well.

    Raises:
      InputError: where network and bottleneck do not fit each other.
    """

    network: Any
    bottleneck: Any
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("latent_channels", "encoder_channels"):
            have, wanted = getattr(self.network, name), getattr(self.bottleneck, name)
            if have != wanted:
                raise InputError(
                    f"the network's {name} is {have}, expected {wanted}, that of the bottleneck"
                )

    def make_init(self) -> Callable[[Array], Tree]:
        """``key -> parameters`` of network and bottleneck, with logical axes."""
        network = self.network.make_model()

        def both(module: nn.Module, x: Array) -> Array:
            return module.decode(module.encode(x)[..., : self.network.latent_channels])

        def init(key: Array) -> Tree:
            params = network.init(key, jnp.zeros((1, *self.shape)), method=both)["params"]
            return {NETWORK: params, BOTTLENECK: self._init_bottleneck(key).get("params", {})}

        return init

    def make_variables(self, key: Array) -> Tree:
        """What is learned without gradients: a codebook that is a moving average, or nothing.

        Joined to the parameters (``{**params, **variables}``) it is used, see `squeeze`.
        """
        variables = self._init_bottleneck(key)
        return {CODEBOOK: variables[CODEBOOK]} if CODEBOOK in variables else {}

    def _init_bottleneck(self, key: Array) -> Tree:
        h = jnp.zeros((1, 1, self.network.encoder_channels))
        return self.bottleneck.make_model().init(jax.random.fold_in(key, 1), h)

    def encode(self, params: Tree, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        """h [B, ..., encoder channels]: what the encoder says of x, before the bottleneck."""
        return self._apply(params, x, "encode")

    def decode(self, params: Tree, z: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        """x^ of latents as the bottleneck gives them."""
        return self._apply(params, z, "decode")

    def _apply(self, params: Tree, x: Array, method: str) -> Array:
        """A method of the network; one of images takes frames as a batch, one of videos images."""
        if x.ndim not in (4, 5):
            raise InputError(
                f"{method}: data have shape {x.shape}, expected [B, Y, X, C] of images or "
                "[B, T, Y, X, C] of videos"
            )
        leading = x.shape[:1] if self.axes == 3 else x.shape[:-3]
        found = self.network.make_model().apply(
            {"params": params[NETWORK]}, x.reshape(-1, *x.shape[len(leading) :]), method=method
        )
        return found.reshape(*leading, *found.shape[1:])

    def squeeze(
        self, params: Tree, h: Float[Array, "B ..."], key: Array | None = None, **options: Any
    ) -> Any:
        """The `bottlenecks.latent.Latent` of h.

        Args:
          params: those of the compressor.
          h: what `encode` gives.
          key: of what is drawn, where anything is.
          **options: of Flax's ``apply``; with ``mutable=["codebook"]`` the updated codebook is
            returned, too.
        """
        return self._apply_bottleneck(params, h, key=key, **options)

    def _apply_bottleneck(self, params: Tree, x: Array, **options: Any) -> Any:
        variables = {"params": params.get(BOTTLENECK, {})}
        if CODEBOOK in params:
            variables[CODEBOOK] = params[CODEBOOK]
        return self.bottleneck.make_model().apply(variables, x, **options)

    def reconstruct(self, params: Tree, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        """What is left of x; nothing is drawn."""
        return self.decode(params, self.squeeze(params, self.encode(params, x)).values)

    def make_compressor(self, params: Tree) -> Compressor:
        """The compressor with its parameters; latents are normalised where these hold statistics.

        Args:
          params: network, bottleneck and, with `with_statistics`, statistics.
        """
        statistics = params.get(STATISTICS, {"mean": 0.0, "deviation": 1.0})

        def latent(x: Array) -> Any:
            return self.squeeze(params, self.encode(params, x))

        def encode(x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
            return (latent(x).values - statistics["mean"]) / statistics["deviation"]

        def decode(z: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
            return self.decode(params, z * statistics["deviation"] + statistics["mean"])

        found = Compressor(
            encode, decode, self.grid, self.network.latent_channels, self.bottleneck.codebook_size
        )
        if found.codebook_size is None:
            return found

        def from_codes(codes: Int[Array, "B ..."]) -> Float[Array, "B ..."]:
            values = self._apply_bottleneck(params, codes, method="values")
            return self.decode(params, values)

        return dataclasses.replace(found, codes=lambda x: latent(x).codes, from_codes=from_codes)

    def grid(self, sides: tuple[int, ...]) -> tuple[int, ...]:
        """The sides of latents of data with these sides, frames among them or not.

        Raises:
          InputError: for sides that the network does not take.
        """
        if len(sides) == self.axes + 1:
            return (sides[0], *self.network.latent_grid(tuple(sides[1:])))
        return tuple(self.network.latent_grid(tuple(sides)))

    @property
    def axes(self) -> int:
        """2 for a network of images, 3 for one of videos."""
        return len(self.shape) - 1


def with_statistics(
    config: CompressorConfig, params: Tree, batches: Iterable[Float[np.ndarray, "B ..."]]
) -> Tree:
    """The parameters with the mean and the deviation of every latent channel.

    Args:
      config: the compressor.
      params: its parameters.
      batches: data in [-1, 1], in batches of one shape.

    Raises:
      InputError: where there are no data.
    """

    @jax.jit
    def moments(params: Tree, x: Array) -> tuple[Array, Array]:
        z = config.squeeze(params, config.encode(params, x)).values
        z_NC = z.reshape(-1, z.shape[-1])
        return z_NC.mean(0), jnp.square(z_NC).mean(0)

    found = [jax.device_get(moments(params, batch)) for batch in batches]
    if not found:
        raise InputError("there are no data, expected one batch or more for latent statistics")
    mean_C, square_C = (
        np.mean(part, axis=0, dtype=np.float64) for part in zip(*found, strict=True)
    )
    deviation_C = np.sqrt(np.maximum(square_C - mean_C**2, 1e-12))
    statistics = {"mean": mean_C, "deviation": deviation_C}
    return {**params, STATISTICS: {k: jnp.asarray(v, jnp.float32) for k, v in statistics.items()}}
