"""What the transformers on patches have in common: their options, and the check of their input."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from jaxtyping import Array, Float, Int

from jaxgen.errors import InputError, check_sizes
from jaxgen.nn.attention import Implementation, QKNorm, check_implementation
from jaxgen.nn.dense import Dtype, check_dtype
from jaxgen.nn.embeddings import check_condition
from jaxgen.nn.patches import patch_grid, patch_sides


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Options of a denoiser that works on patches of an image.

    Attributes:
      in_channels: channels of the input: the noisy data, and what is laid beside it.
      out_channels: channels of the output; twice those of the data where variances are learnt.
      patch: P, pixels along the side of a patch; of videos a side for each axis.
      width: D, of a token.
      depth: transformer blocks.
      heads: attention heads; they divide the width.
      mlp_ratio: hidden units of a block's MLP, in units of the width.
      num_classes: classes; 0 for a network without labels.
      null_class: whether label ``num_classes`` is the null label.
      class_dropout: probability that a label becomes the null class in training.
      dtype: the compute dtype of matrix products; parameters, the stream of tokens between blocks,
        norms, softmax and the output stay float32.
      qk_norm: whether attention normalises queries and keys, head by head; "all_heads" over the
        whole width.
      remat: whether a block's activations are computed again in the backward pass, not stored.
      attention: implementation of attention, see `jaxgen.nn.attention`.
    """

    in_channels: int = 4
    out_channels: int = 8
    patch: Any = 2
    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    num_classes: int = 1000
    null_class: bool = True
    class_dropout: float = 0.1
    dtype: Dtype = "float32"
    qk_norm: QKNorm = False
    remat: bool = False
    attention: Implementation = "auto"

    axes: ClassVar[int] = 2
    """Axes of the data besides channels: 2 for images, 3 for videos."""

    training_method: ClassVar[str | None] = None
    """The method of the module that training applies, which gives one prediction or a tuple of
    some, whose losses are added; None: the module itself."""

    def __post_init__(self) -> None:
        """Validates the fields."""
        patch_sides(self.patch, self.axes)
        if self.axes == 2 and not isinstance(self.patch, int):
            raise InputError(f"patch is {self.patch!r}, expected one number, the side of a square")
        check_sizes(self, "in_channels", "out_channels", "width", "depth", "heads")
        if self.num_classes < 0:
            raise InputError(f"num_classes is {self.num_classes}, expected 0 or more")
        if self.width % self.heads:
            raise InputError(f"width is {self.width}, expected a multiple of heads={self.heads}")
        if self.mlp_ratio * self.width < 1:
            raise InputError(f"mlp_ratio is {self.mlp_ratio}, expected a positive number")
        if not 0 <= self.class_dropout < 1:
            raise InputError(f"class_dropout is {self.class_dropout}, expected 0 <= p < 1")
        if self.num_classes and self.class_dropout and not self.null_class:
            raise InputError(
                f"class_dropout is {self.class_dropout} without a null class, "
                "expected null_class=True or class_dropout=0"
            )
        check_dtype(self.dtype)
        if self.qk_norm not in (True, False, "all_heads"):
            raise InputError(f"qk_norm is {self.qk_norm!r}, expected True, False or 'all_heads'")
        check_implementation(self.attention)

    @property
    def mlp_units(self) -> int:
        """Hidden units of a block's MLP."""
        return int(self.width * self.mlp_ratio)

    @property
    def patch_outputs(self) -> int:
        """Width of the prediction for one patch: P P C_out."""
        return math.prod(patch_sides(self.patch, self.axes)) * self.out_channels

    def check_input(
        self,
        z: Float[Array, "B *sizes C"],
        time_B: Float[Array, "B"],
        label_B: Int[Array, "B"] | None,
    ) -> tuple[int, ...]:
        """Refuses input that does not fit the network; returns the grid of patches (rows, columns).

        Raises:
          InputError: naming the array, its shape and what was expected.
        """
        grid = patch_grid(z.shape, self.patch, self.in_channels)
        check_condition(z.shape[0], time_B, label_B, self.num_classes)
        return grid


@dataclasses.dataclass(frozen=True)
class GridConfig(TransformerConfig):
    """Options of a network whose parameters depend on the size of the images.

    Attributes:
      input_size: height and width of the images; the patch divides both.
    """

    input_size: tuple[int, int] = (32, 32)

    def __post_init__(self) -> None:
        """Validates the fields."""
        super().__post_init__()
        size = tuple(self.input_size)
        if len(size) != 2 or any(side < 1 or side % self.patch for side in size):
            raise InputError(
                f"input_size is {self.input_size}, expected height and width, both divisible by "
                f"patch={self.patch}"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        height, width = self.input_size
        return height // self.patch, width // self.patch

    def check_input(
        self,
        z: Float[Array, "B *sizes C"],
        time_B: Float[Array, "B"],
        label_B: Int[Array, "B"] | None,
    ) -> tuple[int, ...]:
        """As `TransformerConfig.check_input`; refuses other sizes than ``input_size`` too."""
        grid = super().check_input(z, time_B, label_B)
        if grid != self.grid:
            height, width = self.input_size
            raise InputError(
                f"images have shape {z.shape}, expected [B, {height}, {width}, "
                f"{self.in_channels}]: the network's positions are learnt for that size"
            )
        return grid


def check_wave_width(width: int) -> None:
    """Refuses a width that positions on an image cannot have (`jaxgen.nn.positions`)."""
    if width % 4:
        raise InputError(
            f"width is {width}, expected a multiple of 4: sine and cosine of two positions"
        )


def published_fields(
    name: str, family: str, sizes: Mapping[str, tuple[int, int, int]], patches: Iterable[int]
) -> dict[str, int]:
    """The fields that a published name such as "DiT-S/2" stands for.

    Args:
      name: the name.
      family: what it begins with.
      sizes: depth, width and heads of the published sizes.
      patches: the published patch sizes.

    Returns:
      ``depth``, ``width``, ``heads`` and ``patch``.

    Raises:
      InputError: for any other name.
    """
    known = {f"{family}-{size}/{patch}": (size, patch) for size in sizes for patch in patches}
    if name not in known:
        raise InputError(f"network {name!r} is unknown, expected one of {', '.join(known)}")
    size, patch = known[name]
    depth, width, heads = sizes[size]
    return {"depth": depth, "width": width, "heads": heads, "patch": patch}
