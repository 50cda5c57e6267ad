"""Training a text-to-image model: flags, the loss, and the loss at fixed noise levels."""

import functools
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.shared.denoiser_losses import make_network_loss
from experiments.shared.training_runs import OptimizationFlags, TrainedModel, train_model
from experiments.text_to_image.support.captioned_data import loss_of_validation
from jaxgen.data import BatchPlan, CaptionedSet, captioned_batch_at, to_unit
from jaxgen.data.captions.caption_batches import CaptionTokens
from jaxgen.diffusion.model import Conditions, DenoiserConfig
from jaxgen.diffusion.objectives.joint_frames import draw_alone
from jaxgen.diffusion.objectives.losses import loss_by_level, prediction_loss
from jaxgen.diffusion.objectives.weightings import Weighting, weighting_named
from jaxgen.diffusion.process.example_keys import example_keys, normal
from jaxgen.diffusion.process.forward import add_noise
from jaxgen.diffusion.process.levels import broadcast_level
from jaxgen.diffusion.process.predictions import make_target
from jaxgen.diffusion.text_to_image import Texts, TextToImageConfig
from jaxgen.errors import check_share
from jaxgen.evaluation.features import apply_to_rows
from jaxgen.parallel import Layout, current_mesh, gather_fsdp, init_sharded
from jaxgen.training import make_optimizer, train_only
from jaxgen.training.saved_names import register_config
from jaxgen.training.step import LossFn
from jaxgen.typing import Batch, Tree
from jaxgen.unet import UNetConfig

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


def text_to_image_loss(
    config: TextToImageConfig,
    weighting: Weighting,
    layout: Layout,
    *,
    crop: int | None = None,
    alone: float = 0.0,
) -> LossFn:
    """The mean loss of a batch of ``"image"``, ``"text_ids"`` and ``"text_mask"``; of ``"beside"``
    as well for a network that takes something there which no augmentation makes.

    For a model without an encoder, of ``"text_states"`` and ``"text_pooled"`` in place of ids.

    Args:
      config: the model.
      weighting: the weight of |x - x^|^2.
      layout: of the parameters.
      crop: the side of the crop of each picture that is trained on; None: the whole of it.
      alone: of clips, probability that each frame is denoised alone, as an image.
    """
    loss_of = conditioned_loss(config.denoiser, weighting)

    def loss_fn(params: Tree, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        params = gather_fsdp(params, layout)
        conditions = dict(_conditions(config, params, batch))
        if "beside" in batch:
            conditions["beside"] = batch["beside"]
        images = batch["image"]
        if crop is not None or config.augmentation is not None:
            key, own_key = jax.random.split(key)
            images, beside = parts_to_train_on(config, images, crop, own_key)
            conditions |= {} if beside is None else {"beside": beside}
        if alone:
            key, own_key = jax.random.split(key)
            index_B = jnp.arange(len(images))
            conditions["alone_B"] = draw_alone(own_key, index_B, alone)
        return loss_of(params["denoiser"], images, conditions, key)

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


def parts_to_train_on(
    config: TextToImageConfig, x: Float[Array, "B *T Y X C"], crop: int | None, key: Array
) -> tuple[Float[Array, "B *T Y2 X2 C"], Float[Array, "B *T Y2 X2 C1"] | None]:
    """Crops of pictures or clips, and, of a super-resolver, what it enlarges, at random levels.

    Args:
      config: the model.
      x: pictures or clips.
      crop: the side of the crops; None: the whole of them.
      key: randomness.
    """
    augmentation = config.augmentation
    if crop is not None:
        key, crop_key = jax.random.split(key)
        x = random_crops(x, crop, 1 if augmentation is None else augmentation.factor, crop_key)
    if augmentation is None:
        return x, None
    keys_B = example_keys(key, jnp.arange(len(x)))
    return x, augmentation.at_random(augmentation.small_of(x), keys_B)


def random_crops(
    x: Float[Array, "B *T Y X C"], side: int, unit: int, key: Array
) -> Float[Array, "B *T Y2 X2 C"]:
    """A crop of each picture or clip, at places that are multiples of a number of pixels.

    Args:
      x: pictures or clips.
      side: of the crops.
      unit: of their places, so that the small picture of a crop is a crop of the small picture.
      key: randomness.
    """
    batch, *lead, height, width, channels = x.shape
    most = np.array([(height - side) // unit, (width - side) // unit])
    place_B2 = unit * jax.random.randint(key, (batch, 2), 0, most + 1)

    def crop(x: Array, place: Array) -> Array:
        start = *(0 for _ in lead), place[0], place[1], 0
        return jax.lax.dynamic_slice(x, start, (*lead, side, side, channels))

    return jax.vmap(crop)(x, place_B2)


def named_image(batch: Batch) -> Batch:
    """A batch with its clips, if it has clips, under the name that the loss has for pictures."""
    return {"image" if name == "video" else name: value for name, value in batch.items()}


class TrainingParts(NamedTuple):
    """What the training of a model is made of.

    Attributes:
      data: (update, rows) -> those rows of its batch; all of them without rows.
      make_loss_fn: the loss for parameters of a layout.
      tx: the optimizer; None: that of the flags.
      single_steps: see `train_model`.
    """

    data: Callable[..., Batch]
    make_loss_fn: Callable[[Layout], LossFn]
    tx: Any
    single_steps: bool


def training_parts(
    model: TextToImageConfig,
    pictures: CaptionedSet,
    tokens: CaptionTokens,
    plan: BatchPlan,
    flags: TextTrainingFlags,
    *,
    weighting: str,
    encoder: Tree | None = None,
    crop: int | None = None,
    alone: float = 0.0,
    named: Callable[[Batch], Batch] = named_image,
) -> TrainingParts:
    """The parts of the training of a model; arguments as for `train_text_to_image`."""

    def data(step: int, rows: Any = None) -> Batch:
        dropout = flags.text_dropout
        batch = captioned_batch_at(pictures, tokens, plan, step, text_dropout=dropout, rows=rows)
        return named(batch)

    make_loss_fn = functools.partial(
        text_to_image_loss, model, weighting_named(weighting), crop=crop, alone=alone
    )
    tx = None
    if encoder is not None:
        tx = train_only(make_optimizer(flags.optimizer()), "^denoiser/")
    return TrainingParts(data, make_loss_fn, tx, isinstance(model.network, UNetConfig))


def train_text_to_image(
    model: TextToImageConfig,
    pictures: CaptionedSet,
    tokens: CaptionTokens,
    plan: BatchPlan,
    folder: pathlib.Path,
    flags: TextTrainingFlags,
    *,
    weighting: str,
    encoder: Tree | None = None,
    crop: int | None = None,
    alone: float = 0.0,
    named: Callable[[Batch], Batch] = named_image,
    seed: int = 0,
    tensorboard: bool = False,
) -> TrainedModel:
    """Trains a model, or resumes.

    Args:
      model: what is trained.
      pictures: the set, of the model's size.
      tokens: of its captions.
      plan: which of them each update sees.
      folder: the run's.
      flags: how it is trained.
      weighting: the name of that of |x - x^|^2.
      encoder: parameters of an encoder that stays as it is; None: it is trained with the network.
      crop: as in `text_to_image_loss`.
      alone: likewise.
      named: gives the parts of a batch the names that the loss has for them.
      seed: of parameters and noise.
      tensorboard: whether to write event files too.
    """
    parts = training_parts(
        *(model, pictures, tokens, plan, flags),
        weighting=weighting,
        encoder=encoder,
        crop=crop,
        alone=alone,
        named=named,
    )
    return train_model(
        model,
        parts.data,
        folder,
        flags,
        parts.make_loss_fn,
        batch_size=flags.batch_size,
        make_evaluation=lambda loss_fn: loss_of_validation(
            loss_fn, pictures, tokens, plan.batch_size, named
        ),
        seed=seed,
        tensorboard=tensorboard,
        start=None if encoder is None else start_with(model, seed, encoder=encoder),
        tx=parts.tx,
        single_steps=parts.single_steps,
    )


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
