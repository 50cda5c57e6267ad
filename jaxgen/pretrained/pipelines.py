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
    changed = pipeline(["a blue cube"], jax.random.key(1), image=images, strength=0.6)
    filled = pipeline(["a ball"], jax.random.key(2), image=images, known=mask)
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Shaped, UInt8

from jaxgen.data.tokenizers import Tokenizer, check_vocabulary
from jaxgen.diffusion.process.example_keys import example_indices, example_keys, normal
from jaxgen.encoders import make_encoder
from jaxgen.errors import InputError
from jaxgen.pixels import from_unit
from jaxgen.pretrained.networks import LoadedNetwork
from jaxgen.pretrained.pipeline_sampling import make_sampling
from jaxgen.pretrained.schedulers import SchedulerRecipe
from jaxgen.pretrained.source_images import SourceImage, make_source, start_of


@dataclasses.dataclass(frozen=True, eq=False)
class TextToImagePipeline:
    """The parts of a latent text-to-image model, and what they do together.

    What prompts, guidance, seeds and given noise are does not change a compiled program; the number
    of prompts, of steps and the size of images do.

    Attributes:
      tokenizer: of prompts.
      encoder: a `jaxgen.encoders.CLIPTextConfig` and its parameters.
      network: a `jaxgen.unet.UNetConfig` that reads texts, and its parameters; one that fills in
        parts of images has mask and masked image beside its latents.
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
            ("out_channels", network.out_channels, channels),
        ):
            if found != expected:
                raise InputError(
                    f"the network's {name} is {found}, expected {expected}, that of the other parts"
                )
        if network.in_channels not in (channels, 2 * channels + 1):
            raise InputError(
                f"the network's in_channels is {network.in_channels}, expected {channels}, that of "
                f"the other parts, or {2 * channels + 1} with mask and masked image"
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
        image: Shaped[Any, "B Y2 X2 3"] | None = None,
        known: Shaped[Any, "..."] | None = None,
        strength: float | None = None,
        noise: Float[Array, "B Y X C"] | None = None,
        windows: int = 1,
        truncate: bool = False,
    ) -> UInt8[np.ndarray, "B Y2 X2 3"]:
        """Images of prompts, from noise or from other images.

        Args:
          prompts: B texts.
          key: the randomness; image i depends on it and on i alone, whatever B is.
          negative: what the samples are led away from, one text for all or one for each.
          guidance_scale: g, of all or of each; 1 is the conditional model.
          steps: of the sampler.
          height: of images, in pixels; None: the usual one, or that of ``image``.
          width: likewise.
          image: what is changed, bytes or numbers in [-1, 1]; None: nothing.
          known: of a part to be filled in, 1 where the image stays and 0 where it is to be made; a
            mask that broadcasts against [B, Y2, X2, 1], see `make_source`. None: all is changed.
          strength: share of the steps that are run, 0 to 1: how much noise ``image`` gets; None:
            0.8, or 1 with a mask, which is noise alone.
          noise: standard normal numbers in place of those of ``key``, [B, Y, X, C] in the latents'
            grid.
          windows: windows of tokens laid side by side, for longer prompts (`Tokenizer.encode`).
          truncate: whether what a prompt has too much is cut off, rather than an error.

        Raises:
          InputError: for prompts that are too long, a size that the parts do not take, or an
            image, mask, strength or noise that does not fit.
        """
        if not prompts:
            raise InputError("prompts are empty, expected one or more")
        encode = functools.partial(self.encode, windows=windows, truncate=truncate)
        negatives = [negative] * len(prompts) if isinstance(negative, str) else negative
        if len(negatives) != len(prompts):
            raise InputError(f"{len(negatives)} negative prompts, expected 1 or {len(prompts)}")
        sides = self.sides_of_latents(*_sides_of(image, height, width, len(prompts)))
        channels = self.autoencoder.config.network.latent_channels
        if noise is None:
            keys_B = example_keys(key, example_indices(None, len(prompts)))
            noise = normal(keys_B, (*sides, channels))
        elif noise.shape[1:3] != sides:
            raise InputError(f"noise has shape {noise.shape}, expected latents of {sides}")
        source = self.source_of(image, known=known, strength=strength)
        texts = encode(prompts), encode(negatives)
        z = self.sample_latents(
            *texts, key, noise, guidance_scale=guidance_scale, steps=steps, source=source
        )
        return from_unit(self.decode(z))

    def source_of(
        self,
        image: Shaped[Any, "B Y2 X2 3"] | None,
        *,
        known: Shaped[Any, "..."] | None = None,
        strength: float | None = None,
    ) -> SourceImage | None:
        """Where `sample_latents` starts from images; None where there are none.

        Args:
          image: bytes, or numbers in [-1, 1].
          known: as in a call.
          strength: likewise.

        Raises:
          InputError: as `make_source`; a mask or a strength without an image, or no image for a
            network that fills in parts of images.
        """
        if image is not None:
            factor = self.autoencoder.config.network.factor
            return make_source(
                self.latents_of, image, known, strength, factor, beside=self.fills_in
            )
        for name, value in (("known", known), ("strength", strength)):
            if value is not None:
                raise InputError(f"{name} is given without an image, expected image=")
        if self.fills_in:
            raise InputError(
                "image is None, expected images and a mask: the network fills in parts of images"
            )
        return None

    @property
    def fills_in(self) -> bool:
        """Whether the network has mask and masked image beside its latents."""
        return self.network.config.in_channels > self.autoencoder.config.network.latent_channels

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
        source: SourceImage | None = None,
    ) -> Float[Array, "B Y X C2"]:
        """Latents of texts, scaled as the autoencoder's statistics say.

        Args:
          text_BNC: states of prompts (`encode`).
          negative_BNC: those of negative prompts, of as many tokens.
          key: randomness of stochastic samplers.
          noise: standard normal numbers that sampling starts from.
          guidance_scale: g.
          steps: of the sampler.
          source: images to start from (`source_of`); None: noise alone.

        Raises:
          InputError: for texts or noise of another shape, or a strength that leaves no step.
        """
        if text_BNC.shape != negative_BNC.shape or len(text_BNC) != len(noise):
            raise InputError(
                f"texts have shape {text_BNC.shape}, negative ones {negative_BNC.shape} and noise "
                f"{noise.shape}, expected equal texts, and as many of noise"
            )
        z, levels = start_of(source, noise, self.scheduler, steps)
        table = self.scheduler.sampler.table(levels)
        w = jnp.asarray(guidance_scale, jnp.float32) - 1
        known = None if source is None or source.known is None else (source.known, source.z)
        beside = {} if source is None or source.beside is None else {"beside": source.beside}
        texts = ({"text_BNC": text, **beside} for text in (text_BNC, negative_BNC))
        return self._sampling(self.network.params, *texts, w, z, known, table, key)

    def latents_of(self, image: Float[Array, "B Y2 X2 3"]) -> Float[Array, "B Y X C"]:
        """Latents of images in [-1, 1], scaled as the autoencoder's statistics say.

        They are the mean of what the encoder says, not drawn from it.
        """
        return self._encoding(self.autoencoder.params, image)

    def decode(self, z: Float[Array, "B Y X C"]) -> Float[Array, "B Y2 X2 3"]:
        """Images of latents, float32 in about [-1, 1]."""
        return self._decoding(self.autoencoder.params, z)

    @functools.cached_property
    def _sampling(self) -> Callable[..., Array]:
        """From noise to latents, compiled; all that may differ from call to call is a value."""
        return make_sampling(self.network.config, self.scheduler)

    @functools.cached_property
    def _decoding(self) -> Callable[..., Array]:
        config = self.autoencoder.config
        return jax.jit(lambda params, z: config.make_compressor(params).decode(z))

    @functools.cached_property
    def _encoding(self) -> Callable[..., Array]:
        config = self.autoencoder.config
        return jax.jit(lambda params, x: config.make_compressor(params).encode(x))


def _sides_of(
    image: Any, height: int | None, width: int | None, count: int
) -> tuple[int | None, int | None]:
    """Height and width in pixels, where images say what they are."""
    if image is None:
        return height, width
    shape = np.shape(image)
    if len(shape) != 4 or shape[0] != count or shape[3] != 3:
        raise InputError(
            f"image has shape {shape}, expected [{count}, Y, X, 3], one of each prompt"
        )
    for name, given, own in zip(("height", "width"), (height, width), shape[1:3], strict=True):
        if given not in (None, own):
            raise InputError(f"{name} is {given}, expected None or {own}, that of the image")
    return shape[1], shape[2]
