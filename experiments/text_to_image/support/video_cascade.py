"""Training, distilling and sampling the stages of a cascade of videos, each alone."""

import dataclasses
import functools
import pathlib
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from experiments.shared.denoiser_sampling import Draw, SampledModel, SamplingFlags, make_draw
from experiments.shared.guided_distillation import distil_guided_model, guidance_conditioned
from experiments.shared.training_runs import OpenedModel, TrainedModel, loss_of_batch, train_model
from experiments.text_to_image.support.text_training import TextTrainingFlags, text_to_image_loss
from experiments.text_to_image.support.video_stages import VideoStage, batch_of_stage
from jaxgen.data import BatchPlan, CaptionedSet, captioned_batch_at
from jaxgen.data.captions.caption_batches import CaptionTokens
from jaxgen.diffusion import Denoiser, Level
from jaxgen.diffusion.conditioning.guidance import oscillating
from jaxgen.diffusion.objectives.losses import V_LOSS
from jaxgen.diffusion.process.example_keys import example_keys
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.diffusion.text_to_image import Texts, TextToImageConfig
from jaxgen.errors import InputError, check_share
from jaxgen.training.saved_names import register_config
from jaxgen.training.step import LossFn
from jaxgen.typing import Batch, Tree

CLIPS_PER_CALL = 16


@register_config("text_to_image.video_training")
@dataclass(frozen=True, kw_only=True)
class VideoCascadeTrainingFlags(TextTrainingFlags):
    """How the stages are trained: AdamW, linear warm-up, cosine to zero, average of parameters.

    Attributes:
      training_steps: updates of the base.
      batch_size: its clips in an update.
      resolver_steps: updates of each super-resolver.
      resolver_batch: its clips in an update.
      crop: side of the parts that super-resolvers of larger frames are trained on.
      alone: probability that a clip's frames are denoised alone, as images, in stages that do not
        enlarge time.
      text_dropout: probability that a caption becomes the empty text, which guidance compares with.
      learning_rate: the highest one.
      weight_decay: on weights, decoupled.
      ema_decay: of the moving average of the parameters, which is what is sampled.
      accumulate: microbatches of each update, one after the other, to fit it into memory.
      moment_dtype: of the optimizer's mean of gradients; "bfloat16" halves it.
    """

    training_steps: int = 600
    batch_size: int = 32
    resolver_steps: int = 200
    resolver_batch: int = 8
    crop: int = 16
    alone: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("alone", self.alone)
        for name in ("resolver_steps", "resolver_batch", "crop"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected 1 or more")


@dataclass(frozen=True)
class StageData:
    """Captioned clips, as stages are trained on them.

    Attributes:
      clips: at full size.
      tokens: of their captions.
      seed: of their order.
    """

    clips: CaptionedSet
    tokens: CaptionTokens
    seed: int

    def batches(self, stage: VideoStage, size: int, crop: int, text_dropout: float) -> Any:
        """(update, rows) -> the rows of the batch that a stage is trained on."""
        plan = BatchPlan(*self.clips.parts["train"], size, seed=self.seed, name=self.clips.name)

        def data(step: int, rows: Any = None) -> Batch:
            batch = captioned_batch_at(
                self.clips, self.tokens, plan, step, text_dropout=text_dropout, rows=rows
            )
            return batch_of_stage(batch, stage, crop, step, rows)

        return data

    def held_out(self, stage: VideoStage, size: int, crop: int) -> Batch | None:
        """A batch of the validation part; None where there are too few clips."""
        first, last = self.clips.parts.get("validation", (0, 0))
        if last - first < size:
            return None
        part = BatchPlan(first, last, size, seed=0, name=self.clips.name)
        batch = captioned_batch_at(self.clips, self.tokens, part, 0)
        return batch_of_stage(batch, stage, crop, 0)


def train_stage(
    stage: VideoStage,
    config: TextToImageConfig,
    data: StageData,
    folder: pathlib.Path,
    flags: VideoCascadeTrainingFlags,
    *,
    tensorboard: bool,
) -> TrainedModel:
    """Trains a stage in a folder of its own, or resumes."""
    if stage.augmentation is not None:
        flags = dataclasses.replace(flags, training_steps=flags.resolver_steps)
    size = flags.batch_size if stage.augmentation is None else flags.resolver_batch
    alone = flags.alone if stage.augmentation is None or stage.augmentation.frames == 1 else 0.0

    def make_evaluation(loss_fn: LossFn) -> Any:
        held_out = data.held_out(stage, size, flags.crop)
        return None if held_out is None else loss_of_batch(loss_fn, held_out)

    return train_model(
        config,
        data.batches(stage, size, flags.crop, flags.text_dropout),
        folder,
        flags,
        functools.partial(text_to_image_loss, config, V_LOSS, alone=alone),
        batch_size=size,
        make_evaluation=make_evaluation,
        seed=data.seed,
        tensorboard=tensorboard,
        single_steps=True,
    )


def distil_stage(
    stage: VideoStage,
    teacher: OpenedModel,
    data: StageData,
    folder: pathlib.Path,
    flags: VideoCascadeTrainingFlags,
    *,
    start: int,
    stop: int,
    max_guidance_weight: float,
) -> OpenedModel:
    """A student of few steps for every guidance weight; those on the way to it are kept too."""
    config: TextToImageConfig = teacher.config
    conditioned = guidance_conditioned(config)
    size = flags.batch_size if stage.augmentation is None else flags.resolver_batch
    ids_L, mask_L = data.tokens.ids[data.tokens.null], data.tokens.mask[data.tokens.null]

    def texts_of(batch: Batch, key: Array) -> Texts:
        ids_BL = batch["text_ids"]
        nulls = (jnp.broadcast_to(row, ids_BL.shape) for row in (ids_L, mask_L))
        beside = None
        if config.augmentation is not None:
            keys_B = example_keys(key, jnp.arange(len(ids_BL)))
            beside = config.augmentation.at_random(
                config.augmentation.small_of(batch["image"]), keys_B
            )
        return Texts(ids_BL, batch["text_mask"], *nulls, beside=beside)

    def train(name: str, make_loss_fn: Any, seed: int, start: Tree) -> TrainedModel:
        return train_model(
            conditioned,
            data.batches(stage, size, flags.crop, 0.0),
            folder / name,
            flags,
            make_loss_fn,
            batch_size=size,
            make_evaluation=lambda loss_fn: None,
            seed=seed,
            start=start,
            single_steps=True,
        )

    students = distil_guided_model(
        teacher,
        conditioned,
        train,
        texts_of,
        start=start,
        stop=stop,
        max_guidance_weight=max_guidance_weight,
        seed=data.seed,
    )
    return list(students.values())[-1]


@dataclass(frozen=True)
class OscillatingModel:
    """A model whose guidance weight is high and 0 by turns (Imagen Video, section 2.6).

    Attributes:
      config: the model.
      levels: of its sampler.
      constant: how many steps have the weight before turns begin.
    """

    config: TextToImageConfig
    levels: Level
    constant: int

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of a sample."""
        return self.config.image_shape

    @property
    def schedule(self) -> Schedule:
        """The noise schedule."""
        return self.config.schedule

    def make_denoiser(
        self, params: Tree, condition: Any, guidance: Any = None, *, clip: bool = True
    ) -> Denoiser:
        """The denoiser of some texts."""
        if guidance is not None:
            guidance = oscillating(self.levels, guidance, 0.0, self.constant)
        return self.config.make_denoiser(params, condition, guidance, clip=clip)


class StageSampler:
    """Samples a stage, compiled once for each number of steps.

    Args:
      model: the stage's, or a student of it.
      flags: the sampler.
      steps: of it.
      constant: steps with the weight before it oscillates; None: it is the same in all.
    """

    def __init__(
        self, model: OpenedModel, flags: SamplingFlags, steps: int, constant: int | None = None
    ) -> None:
        self.model, self.flags = model, flags
        named = flags.named(model.config.schedule)
        self.levels = named.levels(model.config.schedule, steps)
        sampled: SampledModel = model.config
        if constant is not None:
            sampled = OscillatingModel(model.config, self.levels, constant)
        self.draw: Draw = make_draw(sampled, model.layout, clip=flags.clip, per_call=CLIPS_PER_CALL)

    def __call__(
        self,
        texts: Texts,
        small: Float[np.ndarray, "N *T Y X C"] | None,
        level: float,
        guidance: float,
        key: Key[Array, ""],
    ) -> Float[np.ndarray, "N T2 Y2 X2 C"]:
        """A clip of each text.

        Args:
          texts: a text for each sample, with null texts.
          small: what a super-resolver enlarges; None for a base.
          level: noise on it, as a time.
          guidance: w.
          key: randomness.
        """
        augmentation = self.model.config.augmentation
        if augmentation is not None:
            assert small is not None
            texts = texts._replace(beside=enlarge(augmentation, small, level, key))
        return self.draw(
            self.model.params,
            self.flags.method(self.model.config),
            self.levels,
            texts,
            key,
            guidance=guidance,
            name="sampling " + "x".join(map(str, self.model.config.image_shape[:-1])),
        )


def enlarge(
    augmentation: Any, small: Float[np.ndarray, "N *T Y X C"], level: float, key: Key[Array, ""]
) -> Float[np.ndarray, "N *T2 Y2 X2 C1"]:
    """The condition of a super-resolver at a level of noise, a few clips at a time."""
    make = jax.jit(augmentation.at)
    keys_N = example_keys(jax.random.fold_in(key, 2), jnp.arange(len(small)))
    parts = [
        np.asarray(make(small[i : i + CLIPS_PER_CALL], level, keys_N[i : i + CLIPS_PER_CALL]))
        for i in range(0, len(small), CLIPS_PER_CALL)
    ]
    return np.concatenate(parts)


def sample_stages(
    samplers: list[StageSampler],
    texts: Texts,
    *,
    level: float,
    guidance: float,
    key: Key[Array, ""],
) -> list[Float[np.ndarray, "N T Y X C"]]:
    """What each stage of a cascade makes of what the one before it made, the base first."""
    found: list[Any] = []
    for i, sampler in enumerate(samplers):
        small = found[-1] if found else None
        found.append(sampler(texts, small, level, guidance, jax.random.fold_in(key, i)))
    return found
