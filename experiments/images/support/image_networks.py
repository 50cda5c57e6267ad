"""The denoiser that flags ask for, and its loss."""

import functools
from dataclasses import dataclass
from typing import Any, Literal

import jax
from jaxtyping import Array

from experiments.shared.denoiser_losses import make_network_loss
from experiments.shared.unet_sizes import HEAD_SIZE, unet_of_size
from jaxgen.diffusion import CosineSchedule, Schedule
from jaxgen.diffusion.edm import EDM
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.objectives.losses import loss_by_level
from jaxgen.diffusion.objectives.weightings import Weighting
from jaxgen.diffusion.process.predictions import TargetName, channels_of, check_target
from jaxgen.errors import InputError
from jaxgen.parallel import Layout, gather_fsdp
from jaxgen.spacetime import DiffiTConfig, DiTConfig, MDTConfig, UViTConfig
from jaxgen.training.saved_names import register_config
from jaxgen.training.step import LossFn
from jaxgen.typing import Batch, Tree

NetworkName = Literal["dit", "uvit", "mdt", "diffit", "unet"]
Shape = tuple[int, int, int]
"""Y, X, C of an image."""

MOST_TOKENS = 64
"""Patches of an image, at most, where the patch size is not given."""


@register_config("images.network", first_format=["experiments.image_networks:NetworkFlags"])
@dataclass(frozen=True, kw_only=True)
class NetworkFlags:
    """The denoising network.

    Attributes:
      network: "dit", "uvit", "mdt", "diffit" (transformers on patches) or "unet".
      width: of a token; for the U-Net, channels at the lowest resolution.
      depth: transformer blocks (of a U-ViT one more, its middle, where the number is even); for the
        U-Net, residual blocks of a level.
      patch: pixels along the side of a patch; None: so that an image has some 50. (Not for the
        U-Net.)
      class_dropout: condition dropout: how often the null label replaces the class in training; 0
        leaves no unconditional model, so that nothing can be guided.
      dtype: the compute dtype of products.
      remat: recompute the activations of blocks in the backward pass, to save memory.
    """

    network: NetworkName = "dit"
    width: int = 128
    depth: int = 6
    patch: int | None = None
    class_dropout: float = 0.1
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False

    def config(self, shape: Shape, num_classes: int, out_channels: int) -> Any:
        """The network's configuration for images of a shape.

        Args:
          shape: of the images.
          num_classes: 0 for images without labels.
          out_channels: of the per-pixel prediction.

        Raises:
          InputError: for sizes that do not fit each other or the images.
        """
        dropout = self.class_dropout if num_classes else 0.0
        common: dict[str, Any] = {
            "in_channels": shape[2],
            "out_channels": out_channels,
            "num_classes": num_classes,
            "null_class": dropout > 0,
            "class_dropout": dropout,
            "dtype": self.dtype,
            "remat": self.remat,
        }
        if self.network == "unet":
            if self.patch is not None:
                raise InputError(
                    f"patch is {self.patch}, but the network is a U-Net, which has none"
                )
            return unet_of_size(self.width, self.depth, shape[:2], common)
        patch = default_patch(shape) if self.patch is None else self.patch
        if patch < 1 or shape[0] % patch or shape[1] % patch:
            raise InputError(
                f"patch is {patch}, expected a divisor of both sides of the images "
                f"({shape[0]} x {shape[1]})"
            )
        common |= {"patch": patch, "width": self.width, "depth": self.depth}
        common |= {"heads": max(1, self.width // HEAD_SIZE)}
        match self.network:
            case "dit":
                return DiTConfig(**common)
            case "uvit":
                common["depth"] += 1 - self.depth % 2  # two halves and a block in the middle
                return UViTConfig(**common, input_size=shape[:2])
            case "mdt":
                return MDTConfig(**common, input_size=shape[:2])
            case "diffit":
                return DiffiTConfig(**common, input_size=shape[:2])


def default_patch(shape: Shape) -> int:
    """The smallest patch that divides an image into `MOST_TOKENS` at most (but one of 2 or more).

    Raises:
      InputError: where there is none but the whole image.
    """
    for patch in range(2, min(shape[:2])):
        if not (shape[0] % patch or shape[1] % patch):
            tokens = (shape[0] // patch) * (shape[1] // patch)
            if tokens <= MOST_TOKENS:
                return patch
    raise InputError(
        f"images of {shape[0]} x {shape[1]}: no patch divides them into {MOST_TOKENS} at most; "
        "choose one, or --network unet"
    )


def make_config(
    flags: NetworkFlags,
    shape: Shape,
    classes: tuple[str, ...],
    target: TargetName = "v",
    schedule: Schedule | None = None,
    edm: EDM | None = None,
) -> DenoiserConfig:
    """The model that flags ask for, for images of a shape.

    With `edm` target and schedule are those of Karras et al. (2022).

    Raises:
      InputError: as `NetworkFlags.config` and `DenoiserConfig`.
    """
    target = check_target("x" if edm else target)
    sigma_data = None
    if edm is not None:
        schedule, sigma_data = edm.schedule, edm.sigma_data
    network = flags.config(shape, len(classes), channels_of(target, shape[2]))
    return DenoiserConfig(
        network, shape, classes, target, schedule or CosineSchedule(), sigma_data=sigma_data
    )


def make_loss(config: DenoiserConfig, weighting: Weighting, layout: Layout) -> LossFn:
    """The mean loss of a batch of ``"image"`` (and ``"label"``), at times spread evenly.

    Of a network with several predictions in training (MDT's, with all patches and with some of them
    hidden) the losses are added. A model that is preconditioned as in Karras et al. (2022) is
    trained with their weighting and times.

    Args:
      config: the model.
      weighting: the weight of |x - x^|^2.
      layout: of the parameters.
    """
    model, loss_of = config.make_model(), make_network_loss(config, weighting)

    def loss_fn(params: Tree, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        noise_key, dropout_key, mask_key = jax.random.split(key, 3)
        network = functools.partial(
            model.apply,
            {"params": gather_fsdp(params, layout)},
            label_B=batch.get("label") if config.classes else None,
            train=True,
            rngs={"dropout": dropout_key, "mask": mask_key},
            method=config.network.training_method,
        )
        loss_B, level = loss_of(network, batch["image"], noise_key)
        return loss_B.mean(), loss_by_level(loss_B, level)

    return loss_fn
