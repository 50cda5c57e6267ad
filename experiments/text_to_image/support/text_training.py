"""Training a text-to-image model: flags, the loss, and the loss at fixed noise levels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.shared.denoiser_losses import make_network_loss
from experiments.shared.training_runs import OptimizationFlags, TrainedModel
from jaxgen.data import CaptionedSet, to_unit
from jaxgen.data.captions.caption_batches import CaptionTokens
from jaxgen.diffusion.conditioning.image_to_image import downsample
from jaxgen.diffusion.model import Conditions, DenoiserConfig
from jaxgen.diffusion.objectives.losses import loss_by_level, prediction_loss
from jaxgen.diffusion.objectives.weightings import Weighting
from jaxgen.diffusion.process.example_keys import example_keys, normal
from jaxgen.diffusion.process.forward import add_noise
from jaxgen.diffusion.process.levels import broadcast_level
from jaxgen.diffusion.process.predictions import make_target
from jaxgen.diffusion.text_to_image import Texts, TextToImageConfig
from jaxgen.errors import check_share
from jaxgen.evaluation.features import apply_to_rows
from jaxgen.parallel import Layout, current_mesh, gather_fsdp, init_sharded
from jaxgen.training.saved_names import register_config
from jaxgen.training.step import LossFn
from jaxgen.typing import Batch, Tree

MOST_IMAGES = 512
"""Of the test part, for the loss at fixed noise levels."""


@register_config("text_to_image.training")
@dataclass(frozen=True, kw_only=True)
class TextTrainingFlags(OptimizationFlags):
    """How the model is trained: AdamW, linear warm-up, cosine to zero, average of parameters.

    Attributes:
      training_steps: updates.
      batch_size: pictures of an update.
      text_dropout: probability that a caption becomes the empty text, which guidance compares with.
      learning_rate: the highest one.
      weight_decay: on weights, decoupled.
      ema_decay: of the moving average of the parameters, which is what is sampled.
      accumulate: microbatches of each update, one after the other, to fit it into memory.
      moment_dtype: of the optimizer's mean of gradients; "bfloat16" halves it.
    """

    training_steps: int = 2000
    batch_size: int = 64
    text_dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("text_dropout", self.text_dropout)


def text_to_image_loss(config: TextToImageConfig, weighting: Weighting, layout: Layout) -> LossFn:
    """The mean loss of a batch of ``"image"``, ``"text_ids"`` and ``"text_mask"``; of ``"beside"``
    as well for a network that takes something there which no augmentation makes.

    For a model without an encoder, of ``"text_states"`` and ``"text_pooled"`` in place of ids.

    Args:
      config: the model.
      weighting: the weight of |x - x^|^2.
      layout: of the parameters.
    """
    loss_of = conditioned_loss(config.denoiser, weighting)

    def loss_fn(params: Tree, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        params = gather_fsdp(params, layout)
        conditions = dict(_conditions(config, params, batch))
        if "beside" in batch:
            conditions["beside"] = batch["beside"]
        if config.augmentation is not None:
            key, own_key = jax.random.split(key)
            small = downsample(batch["image"], config.augmentation.factor)
            keys_B = example_keys(own_key, jnp.arange(len(small)))
            conditions["beside"] = config.augmentation.at_random(small, keys_B)
        return loss_of(params["denoiser"], batch["image"], conditions, key)

    return loss_fn


def _conditions(config: TextToImageConfig, params: Tree, batch: Batch) -> Conditions:
    """The texts of a batch, by the encoder or as the states that it gave once."""
    if config.encoder is None:
        names = ("text_states", "text_mask", "text_pooled")
        return config.conditions_of(*(batch[name] for name in names))
    return config.encode(params, batch["text_ids"], batch["text_mask"])


def conditioned_loss(config: DenoiserConfig, weighting: Weighting) -> Callable[..., Any]:
    """``(params, x, conditions, key) -> (mean loss, loss by noise level)`` of a denoiser.

    Args:
      config: the denoiser.
      weighting: the weight of |x - x^|^2.
    """
    loss_of = make_network_loss(config, weighting)

    def loss(
        params: Tree, x: Any, conditions: Conditions, key: Array
    ) -> tuple[Array, dict[str, Array]]:
        def network(z: Array, time: Array) -> Any:
            return config.apply(params, z, time, train=True, **conditions)

        loss_B, level = loss_of(network, x, key)
        return loss_B.mean(), loss_by_level(loss_B, level)

    return loss


def start_with(model: Any, seed: int, **given: Tree) -> Tree:
    """New parameters of a model, beside those that are given of some of its parts.

    Args:
      model: with ``make_init()``.
      seed: of the new ones.
      **given: parameters by the name of the part, "encoder" say.
    """
    params, layout = init_sharded(model.make_init(), jax.random.key(seed), mesh=current_mesh())
    shardings = {name: layout.shardings[name] for name in given}
    return {**params, **jax.device_put(given, shardings)}


def loss_at_times(
    trained: TrainedModel,
    pictures: CaptionedSet,
    tokens: CaptionTokens,
    weighting: Weighting,
    time_N: Float[np.ndarray, "N"],
    batch_size: int = 128,
) -> Float[np.ndarray, "N"]:
    """The loss on test pictures at each of some times, the same noise for every model.

    Args:
      trained: the model.
      pictures: the whole set.
      tokens: of its captions.
      weighting: the weight of |x - x^|^2.
      time_N: times, 0 to 1.
      batch_size: pictures at a time.
    """
    config = trained.config
    start, stop = pictures.parts["test"]
    chosen = slice(start, min(stop, start + MOST_IMAGES))
    row_N = tokens.caption[chosen]
    inputs = to_unit(pictures.images[chosen]), tokens.ids[row_N], tokens.mask[row_N]

    def forward(params: Tree, given: tuple[Array, ...]) -> Array:
        image, ids, mask, index = given
        denoiser = config.make_denoiser(params, Texts(ids, mask), clip=False)
        target = config.denoiser.target
        e = normal(example_keys(jax.random.key(0), index), image.shape[1:])

        def at_time(time: Array) -> Array:
            level = broadcast_level(jax.tree.map(jnp.asarray, config.schedule.at(time)), len(image))
            estimate = denoiser(add_noise(image, e, level), level)
            prediction = make_target(target, estimate.x, estimate.e, level)
            return prediction_loss(prediction, image, e, level, target=target, weighting=weighting)

        return jax.lax.map(at_time, jnp.asarray(time_N, jnp.float32)).T

    index = np.arange(len(row_N), dtype=np.int32)
    return apply_to_rows(forward, trained.params, (*inputs, index), batch_size).mean(axis=0)
