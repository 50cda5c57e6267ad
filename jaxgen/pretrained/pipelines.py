"""From texts to images by latent diffusion (Rombach et al. 2022): Stable Diffusion 1 and 2.

With c the states of a prompt, c0 those of the negative prompt (the empty text by default), g the
guidance scale, and D the decoder of the autoencoder::

    f~(z, t) = f(z, t, c0) + g (f(z, t, c) - f(z, t, c0))        Ho & Salimans 2022
    image    = D(latents),  latents from noise by the sampler with f~

Both halves of f~ are one call of the network on a batch of twice the size. Padding of prompts is
seen by the network, as it was in training.

Parts are what `jaxgen.pretrained` opens; each can be replaced (`dataclasses.replace`)::

    pipeline = load_pipeline("stable-diffusion-v1-5")
    images = pipeline(["a red cube"], jax.random.key(0), steps=30, guidance_scale=5.0)
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from jaxgen.data.tokenizers import Tokenizer, check_vocabulary
from jaxgen.diffusion.conditioning.guidance import guide_conditions
from jaxgen.diffusion.process.example_keys import example_indices, example_keys, normal
from jaxgen.diffusion.samplers.sampling import sample_with_table
from jaxgen.encoders import make_encoder
from jaxgen.errors import InputError
from jaxgen.pixels import from_unit
from jaxgen.pretrained.networks import LoadedNetwork
from jaxgen.pretrained.schedulers import SchedulerRecipe, noise_scale
from jaxgen.typing import Tree


@dataclasses.dataclass(frozen=True, eq=False)
class TextToImagePipeline:
    """The parts of a latent text-to-image model, and what they do together.

    What prompts, guidance, seeds and given noise are does not change a compiled program; the number
    of prompts, of steps and the size of images do.

    Attributes:
      tokenizer: of prompts.
      encoder: a `jaxgen.encoders.CLIPTextConfig` and its parameters.
      network: a `jaxgen.unet.UNetConfig` that reads texts, and its parameters.
      autoencoder: a `jaxgen.compressors.compressor.CompressorConfig` and its parameters.
      scheduler: noise schedule, target and sampler.
      latent_sides: height and width of latents where no other size is asked for.

    Raises:
      InputError: for parts that do not belong together, naming both.
    """

    tokenizer: Tokenizer
    encoder: LoadedNetwork
    network: LoadedNetwork
    autoencoder: LoadedNetwork
    scheduler: SchedulerRecipe
    latent_sides: tuple[int, int] = (64, 64)

    def __post_init__(self) -> None:
        text, network, latents = (
            part.config for part in (self.encoder, self.network, self.autoencoder)
        )
        check_vocabulary(self.tokenizer, text.vocabulary, "the text encoder's table")
        length = self.tokenizer.length
        if length is None or length > text.length:
            raise InputError(
                f"the tokenizer's length is {length}, expected at most {text.length} tokens, for "
                "which the text encoder has positions"
            )
        channels = latents.network.latent_channels
        for name, found, expected in (
            ("text_width", network.text_width, text.width),
            ("pooled_width", network.pooled_width, 0),
            ("in_channels", network.in_channels, channels),
            ("out_channels", network.out_channels, channels),
        ):
            if found != expected:
                raise InputError(
                    f"the network's {name} is {found}, expected {expected}, that of the other parts"
                )
        if self.scheduler.sigma_data is not None or self.scheduler.learned_variance:
            raise InputError(
                f"the scheduler is {self.scheduler.name} with sigma_data="
                f"{self.scheduler.sigma_data} and learned_variance="
                f"{self.scheduler.learned_variance}, expected None and False"
            )

    def __call__(
        self,
        prompts: Sequence[str],
        key: Key[Array, ""],
        *,
        negative: str | Sequence[str] = "",
        guidance_scale: float | Float[Array, "B"] = 7.5,
        steps: int = 50,
        height: int | None = None,
        width: int | None = None,
        noise: Float[Array, "B Y X C"] | None = None,
        windows: int = 1,
        truncate: bool = False,
    ) -> UInt8[np.ndarray, "B Y2 X2 3"]:
        """Images of prompts.

        Args:
          prompts: B texts.
          key: the randomness; image i depends on it and on i alone, whatever B is.
          negative: what the samples are led away from, one text for all or one for each.
          guidance_scale: g, of all or of each; 1 is the conditional model.
          steps: of the sampler.
          height: of images, in pixels; None: the usual one.
          width: likewise.
          noise: standard normal numbers in place of those of ``key``, [B, Y, X, C] in the latents'
            grid.
          windows: windows of tokens laid side by side, for longer prompts (`Tokenizer.encode`).
          truncate: whether what a prompt has too much is cut off, rather than an error.

        Raises:
          InputError: for prompts that are too long, a size that the parts do not take, or noise of
            another shape.
        """
        if not prompts:
            raise InputError("prompts are empty, expected one or more")
        encode = functools.partial(self.encode, windows=windows, truncate=truncate)
        negatives = [negative] * len(prompts) if isinstance(negative, str) else negative
        if len(negatives) != len(prompts):
            raise InputError(f"{len(negatives)} negative prompts, expected 1 or {len(prompts)}")
        sides = self.sides_of_latents(height, width)
        if noise is None:
            keys_B = example_keys(key, example_indices(None, len(prompts)))
            noise = normal(keys_B, (*sides, self.network.config.in_channels))
        elif noise.shape[1:3] != sides:
            raise InputError(f"noise has shape {noise.shape}, expected latents of {sides}")
        texts = encode(prompts), encode(negatives)
        z = self.sample_latents(*texts, key, noise, guidance_scale=guidance_scale, steps=steps)
        return from_unit(self.decode(z))

    def sides_of_latents(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width of the latents of images of that size.

        Args:
          height: in pixels; None: the usual one.
          width: likewise.

        Raises:
          InputError: for a size that autoencoder or network does not take.
        """
        factor = self.autoencoder.config.network.factor
        multiple = factor * 2 ** (self.network.config.levels - 1)
        sides = []
        for name, side, usual in zip(
            ("height", "width"), (height, width), self.latent_sides, strict=True
        ):
            pixels = usual * factor if side is None else side
            if pixels < 1 or pixels % multiple:
                raise InputError(
                    f"{name} is {pixels}, expected a multiple of {multiple}: latents have a "
                    f"{factor}th of it, which the network halves "
                    f"{self.network.config.levels - 1} times"
                )
            sides.append(pixels // factor)
        return sides[0], sides[1]

    def encode(
        self, texts: Sequence[str], *, windows: int = 1, truncate: bool = False
    ) -> Float[Array, "B N C"]:
        """States of texts, padding among them; those of several windows side by side.

        Args:
          texts: B texts.
          windows: see `Tokenizer.encode`.
          truncate: likewise.

        Raises:
          InputError: for texts that are too long.
        """
        ids_BN = self.tokenizer.encode(texts, windows=windows, truncate=truncate).ids
        states = make_encoder(*self.encoder)(ids_BN.reshape(len(texts) * windows, -1)).states_BLD
        return states.reshape(len(texts), -1, states.shape[-1])

    def sample_latents(
        self,
        text_BNC: Float[Array, "B N C"],
        negative_BNC: Float[Array, "B N C"],
        key: Key[Array, ""],
        noise: Float[Array, "B Y X C2"],
        *,
        guidance_scale: float | Float[Array, "B"] = 7.5,
        steps: int = 50,
    ) -> Float[Array, "B Y X C2"]:
        """Latents of texts, scaled as the autoencoder's statistics say.

        Args:
          text_BNC: states of prompts (`encode`).
          negative_BNC: those of negative prompts, of as many tokens.
          key: randomness of stochastic samplers.
          noise: standard normal numbers that sampling starts from.
          guidance_scale: g.
          steps: of the sampler.

        Raises:
          InputError: for texts or noise of another shape.
        """
        if text_BNC.shape != negative_BNC.shape or len(text_BNC) != len(noise):
            raise InputError(
                f"texts have shape {text_BNC.shape}, negative ones {negative_BNC.shape} and noise "
                f"{noise.shape}, expected equal texts, and as many of noise"
            )
        levels = self.scheduler.levels(steps)
        table = self.scheduler.sampler.table(levels)
        z = jnp.asarray(noise, jnp.float32) * np.float32(noise_scale(self.scheduler, levels))
        w = jnp.asarray(guidance_scale, jnp.float32) - 1
        return self._sampling(self.network.params, (text_BNC, negative_BNC), w, z, table, key)

    def decode(self, z: Float[Array, "B Y X C"]) -> Float[Array, "B Y2 X2 3"]:
        """Images of latents, float32 in about [-1, 1]."""
        return self._decoding(self.autoencoder.params, z)

    @functools.cached_property
    def _sampling(self) -> Callable[..., Array]:
        """From noise to latents, compiled; all that may differ from call to call is a value."""
        model, recipe = self.network.config.make_model(), self.scheduler

        @jax.jit
        def run(
            params: Tree, texts: tuple[Array, Array], w: Array, z: Array, table: Any, key: Array
        ) -> Array:
            guided = guide_conditions(
                lambda z, time, text: model.apply({"params": params}, z, time, text_BNC=text),
                *texts,
                w,
                target=recipe.target,
                time_input=recipe.time_input,
            )
            return sample_with_table(recipe.sampler, recipe.limit(guided), z, table, key)

        return run

    @functools.cached_property
    def _decoding(self) -> Callable[..., Array]:
        config = self.autoencoder.config
        return jax.jit(lambda params, z: config.make_compressor(params).decode(z))
