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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Shaped, UInt8

from jaxgen.data.tokenizers import Tokenizer
from jaxgen.diffusion.model import Conditions
from jaxgen.diffusion.process.example_keys import example_indices, example_keys, normal
from jaxgen.diffusion.samplers.sampling import fill_up
from jaxgen.errors import InputError
from jaxgen.pixels import from_unit
from jaxgen.pretrained.networks import LoadedNetwork
from jaxgen.pretrained.pipeline_checks import (
    check_call,
    check_encoder,
    check_network,
    check_pipeline_scheduler,
    check_rescale,
    sides_of_images,
    sides_of_latents,
)
from jaxgen.pretrained.pipeline_sampling import Guide, make_latent_sampling
from jaxgen.pretrained.prompt_states import encode_texts
from jaxgen.pretrained.schedulers import SchedulerRecipe
from jaxgen.pretrained.source_images import SourceImage, make_source, start_of

ROWS = 64
"""Rows of a sampler's table that one program serves, few or many steps."""


@dataclasses.dataclass(frozen=True, eq=False)
class TextToImagePipeline:
    """The parts of a latent text-to-image model, and what they do together.

    What prompts, guidance, seeds and given noise are does not change a compiled program, nor does
    the number of steps up to 64 (then 128, ...); the number of prompts and the size of images do.

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
        check_encoder(self.tokenizer, self.encoder.config)
        check_network(self.network.config, self.autoencoder.config, *self.text_widths)
        check_pipeline_scheduler(self.scheduler)

    def __call__(
        self,
        prompts: Sequence[str],
        key: Key[Array, ""],
        *,
        negative: str | Sequence[str] = "",
        also: Sequence[tuple[str | Sequence[str], float]] = (),
        guidance_scale: float | Float[Array, "B"] = 7.5,
        rescale: float = 0.0,
        steps: int = 50,
        height: int | None = None,
        width: int | None = None,
        image: Shaped[Any, "B Y2 X2 3"] | None = None,
        known: Shaped[Any, "..."] | None = None,
        strength: float | None = None,
        noise: Float[Array, "B Y X C"] | None = None,
        weighted: bool = False,
        windows: int = 1,
        truncate: bool = False,
    ) -> UInt8[np.ndarray, "B Y2 X2 3"]:
        """Images of prompts, from noise or from other images.

        Args:
          prompts: B texts.
          key: the randomness; image i depends on it and on i alone, whatever B is.
          negative: what the samples are led away from, one text for all or one for each.
          also: further prompts that images follow at the same time, one text for all or one for
            each, and the weight of each beside the first prompt's 1; a negative one leads away.
          guidance_scale: g, of all or of each; 1 is the conditional model.
          rescale: share of the guided prediction that gets the deviation of the conditional one, 0
            to 1 (`classifier_free_guidance`).
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
          weighted: whether brackets weigh words, "a (red:1.3) cube" (`parse_weights`,
            `weigh_states`), or are text.
          windows: windows of tokens laid side by side, for longer prompts (`Tokenizer.encode`).
          truncate: whether what a prompt has too much is cut off, rather than an error.

        Raises:
          InputError: for prompts that are too long, a size that the parts do not take, or an
            image, mask, strength or noise that does not fit.
        """
        given: dict[str, Any] = {"also": also, "steps": steps, "noise": noise}
        check_call(prompts, key, guidance_scale=guidance_scale, **given)
        pixels = sides_of_images(image, height, width, len(prompts))
        network, factor = self.network.config, self.autoencoder.config.network.factor
        sides = sides_of_latents(*pixels, factor, network.levels, self.latent_sides)
        encode = functools.partial(
            self.conditions,
            size=(factor * sides[0], factor * sides[1]),
            weighted=weighted,
            windows=windows,
            truncate=truncate,
        )
        negatives = _for_each("negative", negative, len(prompts))
        others = [(_for_each("also", more, len(prompts)), w) for more, w in also]
        channels = self.autoencoder.config.network.latent_channels
        if noise is None:
            keys_B = example_keys(key, example_indices(None, len(prompts)))
            noise = normal(keys_B, (*sides, channels))
        elif noise.shape != (len(prompts), *sides, channels):
            expected = [len(prompts), *sides, channels]
            raise InputError(f"noise has shape {noise.shape}, expected latents {expected}")
        source = self.source_of(image, known=known, strength=strength)
        z = self.sample_latents(
            encode(prompts),
            encode(negatives, negative=True),
            key,
            noise,
            also=[(encode(texts), weight) for texts, weight in others],
            guidance_scale=guidance_scale,
            rescale=rescale,
            steps=steps,
            source=source,
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

    def encode(
        self,
        texts: Sequence[str],
        *,
        weighted: bool = False,
        windows: int = 1,
        truncate: bool = False,
    ) -> Float[Array, "B N C"]:
        """States of texts, padding among them; those of several windows side by side.

        Args:
          texts: B texts.
          weighted: whether brackets in them weigh words.
          windows: see `Tokenizer.encode`.
          truncate: likewise.

        Raises:
          InputError: for texts that are too long.
        """
        return encode_texts(
            self.tokenizer,
            self.encoder,
            texts,
            weighted=weighted,
            windows=windows,
            truncate=truncate,
        )[0]

    def conditions(
        self,
        texts: Sequence[str],
        *,
        size: tuple[int, int],
        negative: bool = False,
        **options: Any,
    ) -> Conditions:
        """Texts as the network takes them.

        Args:
          texts: B texts.
          size: height and width of images in pixels, which some networks are conditioned on.
          negative: whether samples are led away from them.
          **options: of `encode`.

        Raises:
          InputError: as `encode`.
        """
        return {"text_BNC": self.encode(texts, **options)}

    @property
    def text_widths(self) -> tuple[int, int]:
        """Width of the states and of the vector that the network reads."""
        return self.encoder.config.width, 0

    def sample_latents(
        self,
        text: Float[Array, "B N C"] | Conditions,
        negative: Float[Array, "B N C"] | Conditions,
        key: Key[Array, ""],
        noise: Float[Array, "B Y X C2"],
        *,
        also: Sequence[tuple[Float[Array, "B N C"] | Conditions, float]] = (),
        guidance_scale: float | Float[Array, "B"] = 7.5,
        rescale: float = 0.0,
        steps: int = 50,
        source: SourceImage | None = None,
    ) -> Float[Array, "B Y X C2"]:
        """Latents of texts, scaled as the autoencoder's statistics say.

        Args:
          text: states of prompts (`encode`), or all of `conditions`.
          negative: those of negative prompts, of as many tokens.
          key: randomness of stochastic samplers.
          noise: standard normal numbers that sampling starts from.
          also: states of further prompts and their weights, as in a call.
          guidance_scale: g.
          rescale: as in a call.
          steps: of the sampler.
          source: images to start from (`source_of`); None: noise alone.

        Raises:
          InputError: for texts or noise of another shape, a strength that leaves no step, or a
            rescale out of range or with several prompts.
        """
        texts = [
            dict(given) if isinstance(given, Mapping) else {"text_BNC": given}
            for given in (text, negative, *(more for more, _ in also))
        ]
        shapes = [{name: value.shape for name, value in given.items()} for given in texts]
        if any(shape != shapes[0] for shape in shapes) or len(noise) != shapes[0]["text_BNC"][0]:
            raise InputError(
                f"texts have shapes {', '.join(map(str, shapes))} and noise {noise.shape}, "
                "expected equal texts, and as many of noise"
            )
        check_rescale(rescale, len(also))
        z, levels = start_of(source, noise, self.scheduler, steps)
        table, rows = fill_up(self.scheduler.sampler.table(levels), ROWS)
        scale = jnp.asarray(guidance_scale, jnp.float32)
        guide = Guide(
            scale,
            tuple(jnp.float32(weight) for _, weight in also),
            jnp.float32(rescale) if rescale else None,
        )
        known = None if source is None or source.known is None else (source.known, source.z)
        beside = {} if source is None or source.beside is None else {"beside": source.beside}
        texts = [{**given, **beside} for given in texts]
        return self._sampling(self.network.params, texts, guide, z, known, table, rows, key)

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
        return make_latent_sampling(self.network.config, self.scheduler)

    @functools.cached_property
    def _decoding(self) -> Callable[..., Array]:
        config = self.autoencoder.config
        return jax.jit(lambda params, z: config.make_compressor(params).decode(z))

    @functools.cached_property
    def _encoding(self) -> Callable[..., Array]:
        config = self.autoencoder.config
        return jax.jit(lambda params, x: config.make_compressor(params).encode(x))


def _for_each(name: str, texts: str | Sequence[str], count: int) -> Sequence[str]:
    """One text for all, or one for each of them."""
    found = [texts] * count if isinstance(texts, str) else texts
    if not isinstance(found, Sequence):
        raise InputError(f"{name} is {texts!r}, expected a string, or {count}, one for each prompt")
    if len(found) != count:
        raise InputError(
            f"{name} has a list of {len(found)} texts, expected a string, or {count}, one for each "
            "prompt"
        )
    return found
