"""A trained denoiser as a configuration: the network, what it predicts, its process, its classes.

Networks that read texts take them as named arrays, the *conditions*: ``text_BNC``, ``text_mask_BN``
and ``pooled_BC``, as an encoder gives them (`jaxgen.diffusion.text_to_image`). The condition
``beside`` is laid beside the latents along the channels: the small image of a super-resolver
(`jaxgen.diffusion.conditioning.noise_augmentation`), or a masked image and its mask.

What checkpoints of diffusion models hold. With it and the parameters a model can be sampled::

    model = jaxgen.training.load_model(folder)
    denoiser = model.config.make_denoiser(model.params, label_B, guidance=1.0)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Int

from jaxgen.diffusion.conditioning.frame_masks import known_channels, with_frame_channels
from jaxgen.diffusion.conditioning.guidance import (
    GuidanceWeight,
    guide_conditions,
    labels_and_nulls,
)
from jaxgen.diffusion.conditioning.image_to_image import with_known
from jaxgen.diffusion.conditioning.known_frames import KnownFrames
from jaxgen.diffusion.denoiser import (
    Denoiser,
    check_target_fits,
    clip_x,
    make_denoiser,
    split_variance,
)
from jaxgen.diffusion.distillation.progressive import with_guidance_weight
from jaxgen.diffusion.preconditioning import precondition_network
from jaxgen.diffusion.process.predictions import TargetName, check_target
from jaxgen.diffusion.process.schedules import CosineSchedule, Schedule
from jaxgen.diffusion.process.table_schedules import TableSchedule
from jaxgen.errors import InputError, check_positive
from jaxgen.typing import Tree

Conditions = Mapping[str, Array]
"""By name, what a network takes beside latents, times and labels: arrays [B, ...]."""

TimeName = Literal["thousandths", "step", "out_of_999"]
"""What a network is conditioned on: 1,000 t, the number of a step, or 999 t."""


@dataclass(frozen=True)
class DenoiserConfig:
    """A denoiser of images or videos.

    Attributes:
      network: the configuration of the network, with ``make_model()``, ``num_classes`` and
        ``null_class``.
      image_shape: Y, X, C of the images, or T, Y, X, C of videos; networks that take several sizes
        are sampled at this one unless another is asked for.
      classes: names of the classes; empty for a model without labels.
      target: what the network predicts; long names become short ones.
      schedule: the noise schedule.
      guidance_channels: channels of the network's input that hold the guidance weight (see
        `jaxgen.diffusion.distillation.progressive.with_guidance_weight`); 0 for a network that is
        not guidance-conditioned.
      known_frames: whether the network was trained with known frames of videos, which are then the
        last channels of its input, the data's and one for the mask (see
        `jaxgen.diffusion.conditioning.frame_masks`).
      beside_channels: channels of the condition ``beside``, the last ones of the network's input; 0
        for a network without.
      time_input: the network's conditioning on the noise level: "thousandths", 1,000 t, or "step",
        the number of the step of a table of some, t T - 1, or "out_of_999", 999 t (Song et al.
        2021b).
      learned_variance: whether the network's output is twice as long along the last axis, the
        second half telling the variance (Nichol & Dhariwal 2021).
      sigma_data: d of the preconditioning of Karras et al. (2022), for networks that were trained
        with it (`jaxgen.diffusion.edm`); the target is then "x". None: without.

    Raises:
      InputError: for a target that the schedule or the preconditioning does not allow, or steps of
        a schedule that is no table.
    """

    network: Any
    image_shape: tuple[int, ...]
    classes: tuple[str, ...]
    target: TargetName = "v"
    schedule: Schedule = CosineSchedule()
    guidance_channels: int = 0
    known_frames: bool = False
    beside_channels: int = 0
    time_input: TimeName = "thousandths"
    learned_variance: bool = False
    sigma_data: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", check_target(self.target))
        check_target_fits(self.schedule, self.target)
        if self.time_input not in get_args(TimeName):
            raise InputError(
                f"time_input is {self.time_input!r}, expected {', '.join(get_args(TimeName))}"
            )
        if self.time_input == "step" and not isinstance(self.schedule, TableSchedule):
            raise InputError(
                f"time_input is 'step' with {type(self.schedule).__name__}, expected a table of "
                "steps"
            )
        if self.sigma_data is not None:
            check_positive("sigma_data", self.sigma_data)
            if self.target != "x" or self.learned_variance or self.time_input != "thousandths":
                raise InputError(
                    f"sigma_data is {self.sigma_data} with target {self.target!r}, expected target "
                    "'x', no learned variance and times in thousandths"
                )

    @property
    def null_label(self) -> int | None:
        """The null label; None for a network trained without one."""
        network = self.network
        return network.num_classes if network.num_classes and network.null_class else None

    @property
    def reads_texts(self) -> bool:
        """Whether the network takes tokens or a vector of a text."""
        return bool(text_example(self.network))

    @property
    def condition_channels(self) -> int:
        """Channels of the network's input beside the data's."""
        frames = self.known_frames * (self.image_shape[-1] + 1)
        return self.guidance_channels + frames + self.beside_channels

    def check_guidance(self, guidance: float) -> None:
        """Refuses guidance where there is nothing to guide with.

        Raises:
          InputError: for guidance without labels or without a null class.
        """
        if guidance and not self.classes and not self.reads_texts:
            raise InputError(
                f"guidance is {guidance}, but the images have no labels: an unconditional network "
                "cannot be guided, expected 0"
            )
        if guidance and self.classes and self.null_label is None:
            raise InputError(
                f"guidance is {guidance}, but the network has no null class (class_dropout is 0), "
                "expected guidance 0, or class_dropout > 0"
            )

    def make_model(self) -> nn.Module:
        """The network as a Flax module."""
        return self.network.make_model()

    def make_init(self) -> Callable[[Array], Tree]:
        """``key -> parameters``, with logical axes."""
        model = self.make_model()
        *sizes, channels = self.image_shape
        z = jnp.zeros((1, *sizes, channels + self.condition_channels))
        label_1 = jnp.zeros((1,), jnp.int32) if self.classes else None

        def init(key: Array) -> Tree:
            keys = dict(zip(("params", "dropout", "mask"), jax.random.split(key, 3), strict=True))
            texts = text_example(self.network)
            return model.init(keys, z, jnp.zeros((1,)), label_1, **texts)["params"]

        return init

    def apply(
        self,
        params: Tree,
        z: Array,
        time: Array,
        label_B: Array | None = None,
        *,
        beside: Array | None = None,
        **options: Any,
    ) -> Any:
        """The network itself, with what is laid beside the latents.

        Args:
          params: the network's parameters.
          z: latents, with channels of guidance or of known frames behind them if there are any.
          time: as the network takes it.
          label_B: a class each; None for a model without labels.
          beside: of the latents' sizes, with ``beside_channels`` channels.
          **options: other conditions; ``train``, ``rngs`` and so on.

        Raises:
          InputError: unless `beside` has the latents' sizes and as many channels as the network
            was trained with.
        """
        expected = (*z.shape[:-1], self.beside_channels)
        if (beside is None) != (self.beside_channels == 0) or (
            beside is not None and beside.shape != expected
        ):
            found = "None" if beside is None else f"of shape {beside.shape}"
            wanted = f"shape {expected}" if self.beside_channels else "None (beside_channels is 0)"
            raise InputError(f"beside is {found}, expected {wanted}")
        inputs = z if beside is None else jnp.concatenate([z, beside], -1)
        return self.make_model().apply({"params": params}, inputs, time, label_B, **options)

    def adapt(
        self, network: Callable[..., Any], *, keep_variance: bool = False
    ) -> Callable[..., Any]:
        """A raw network as all others expect it: times are 1,000 t, outputs are the target alone.

        Args:
          network: ``(z, time, ...) -> output``, or several outputs, with the network's own times.
          keep_variance: whether a learnt variance stays behind the prediction.
        """
        if self.sigma_data is not None:
            return precondition_network(network, self.schedule, self.sigma_data)
        if self.time_input == "thousandths" and (keep_variance or not self.learned_variance):
            return network

        def adapted(z: Array, time: Array, *args: Any, **kwargs: Any) -> Any:
            if isinstance(self.schedule, TableSchedule) and self.time_input == "step":
                time = self.schedule.index(jnp.asarray(time) / 1000)
            if self.time_input == "out_of_999":
                time = 0.999 * time
            outputs = network(z, time, *args, **kwargs)
            if keep_variance or not self.learned_variance:
                return outputs
            return jax.tree.map(lambda output: split_variance(output)[0], outputs)

        return adapted

    def make_network(
        self,
        params: Tree,
        given: KnownFrames | None = None,
        *,
        keep_variance: bool = False,
    ) -> Callable[..., Array]:
        """``(z, time, label_B) -> prediction``; guidance-conditioned: ``(z, time, w_B, label_B)``.

        Conditions are named arguments of it.

        Args:
          params: the network's parameters.
          given: known frames, for a network that was trained with some; None: none are known.
          keep_variance: as in `adapt`.

        Raises:
          InputError: for known frames where the network takes none.
        """
        if given is not None and not self.known_frames:
            raise InputError(
                "given are known frames, but the network was trained without (known_frames is "
                "False), expected None; `with_known_frames` guides any network to them"
            )

        def network(z: Array, time: Array, label_B: Array | None, **conditions: Array) -> Array:
            return self.apply(params, z, time, label_B, **conditions)

        if self.known_frames:
            network = with_frame_channels(
                network, None if given is None else known_channels(*given)
            )
        if self.guidance_channels:
            network = with_guidance_weight(network, self.guidance_channels)
        return self.adapt(network, keep_variance=keep_variance)

    def make_denoiser(
        self,
        params: Tree,
        label_B: Int[Array, "B"] | None,
        guidance: GuidanceWeight | None = None,
        *,
        conditions: Conditions | None = None,
        nulls: Conditions | None = None,
        clip: bool = True,
        given: KnownFrames | None = None,
    ) -> Denoiser:
        """The denoiser of images of some classes or texts.

        Args:
          params: the network's parameters.
          label_B: a class each, or the null label; None for a model without labels.
          guidance: w of ``(1 + w) e(z, c) - w e(z)`` (Ho & Salimans 2022); None: the conditional
            model alone, at half the cost of w = 0. A guidance-conditioned network takes it as its
            input, a number or [B].
          conditions: what the network takes beside labels, of a text for example.
          nulls: what stands for none, or for what samples shall not show: arrays of the same names
            and shapes. Needed for guidance with conditions.
          clip: whether x^ is kept within [-1, 1], and e^ recomputed from it.
          given: known frames of videos, which samples will hold, for a network that was trained
            with some; None: none are known.

        Raises:
          InputError: for guidance without labels or without a null class, or with conditions
            without nulls, and for known frames where the network takes none.
        """
        variance, conditions = self.learned_variance, conditions or {}
        network = self.make_network(params, given, keep_variance=True)
        if self.guidance_channels:
            w = jnp.asarray(0.0 if guidance is None else guidance, jnp.float32)
            denoiser = make_denoiser(
                lambda z, time: network(
                    z, time, jnp.broadcast_to(w, len(z)), label_B, **conditions
                ),
                self.target,
                learned_variance=variance,
            )
        elif guidance is None:
            denoiser = make_denoiser(
                lambda z, time: network(z, time, label_B, **conditions),
                self.target,
                learned_variance=variance,
            )
        elif label_B is None and not conditions:
            raise InputError("labels are None, expected [B] classes to guide with")
        else:
            no_label: Any = (None, None)
            pair = no_label if label_B is None else labels_and_nulls(label_B, self.null_label)
            denoiser = guide_conditions(
                lambda z, time, both: network(z, time, both[0], **both[1]),
                (pair[0], dict(conditions)),
                (pair[1], dict(nulls or {})),
                guidance,
                target=self.target,
                learned_variance=variance,
            )
        denoiser = clip_x(denoiser) if clip else denoiser
        return denoiser if given is None else with_known(denoiser, given.known, given.x)


def text_example(network: Any) -> dict[str, Array]:
    """What a network that reads texts takes of one text, by name; nothing for others.

    Args:
      network: its configuration.
    """
    found = {}
    if width := getattr(network, "text_width", 0):
        length = getattr(network, "text_length", 0) or 1
        found["text_BNC"] = jnp.zeros((1, length, width))
    if width := getattr(network, "pooled_width", 0):
        found["pooled_BC"] = jnp.zeros((1, width))
    return found
