"""The ablated diffusion model: a U-Net with attention (Dhariwal & Nichol 2021, section 3).

Down through the levels, each at half the resolution of the one before; through the middle; and up
again, where every block also reads what its counterpart on the way down handed on::

    x = conv(z);                         stack = [x]
    down, level 0 to last:   blocks x (residual block [, attention]), each pushed on the stack;
                             then half the resolution (but at the last level), pushed too
    middle:                  residual block, attention, residual block
    up, level last to 0:     (blocks + 1) x (residual block of [x, popped] [, attention]);
                             then twice the resolution (but at level 0)
    output = conv(silu(GN(x)))

The condition is the sum of the embeddings of time and label. The network of the DDPM paper (Ho et
al. 2020) and the U-Nets of diffusers' ``UNet2DModel`` are other settings of the same options;
`jaxgen.interop.unet_weights` reads and writes their weights. So is the 3-D U-Net of videos (Ho et
al. 2022): the same network on all frames, with attention over frames after each attention over
pixels (`jaxgen.unet.frame_attention`).

A network may read texts: a vector for each is added to the condition, and pixels attend to states
of tokens, in transformer blocks (`jaxgen.unet.text_attention`) or beside each other.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxgen.errors import InputError
from jaxgen.nn.attention import Implementation
from jaxgen.nn.convolutions import conv, group_norm
from jaxgen.nn.dense import Dtype, zeros
from jaxgen.nn.embeddings import LabelEmbedding, VectorEmbedding, check_condition
from jaxgen.nn.text_inputs import (
    check_pooled,
    check_text_mask,
    check_text_tokens,
    without_padding,
)
from jaxgen.unet.frame_attention import FrameAttention, FrameRows, rows_of_frames
from jaxgen.unet.frame_convolution import FrameConvolution
from jaxgen.unet.option_checks import Down, FrameLayer, Labels, Up, check_unet_options, per_level
from jaxgen.unet.published_sizes import ADM, STABLE_DIFFUSION, VIDEO_DIFFUSION
from jaxgen.unet.residual_blocks import (
    Activation,
    BlockOptions,
    PixelAttention,
    Resample,
    Resampling,
    ResidualBlock,
    WaveEmbedding,
)
from jaxgen.unet.text_attention import TextTransformer
from jaxgen.unet.text_states import TextReading, TextStates


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Options of a U-Net; the defaults are those of the ADM paper's architecture.

    Levels are numbered from the full resolution, 0, to the lowest; each halves the resolution.

    Attributes:
      in_channels: channels of the input: the noisy data, and what is laid beside it.
      out_channels: channels of the output; twice those of the data where variances are learnt.
      channels: channels at each level.
      blocks: residual blocks of a level on the way down, of all levels or of each; on the way up
        there is one more. Of 0 a level is left at once.
      attention_levels: levels with attention after each residual block.
      up_attention_levels: the same for the way up; None: as on the way down.
      middle_attention: whether there is attention between the two blocks in the middle.
      heads: attention heads, of all levels or of each; None if ``head_size`` says it.
      head_size: K, channels of a head; None if ``heads`` says it.
      adaptive_norm: whether the condition scales and shifts the second norm of a block (adaptive
        group norm); False: it is added before that norm.
      downsampling: by a residual block that averages 2 x 2 pixels ("residual"), or a convolution
        with stride 2, padded on both sides ("conv") or at the end ("conv_end"); one for all, or one
        for each level but the last.
      upsampling: by a residual block that repeats pixels ("residual"), repeated pixels and a
        convolution ("conv"), or a convolution and then repeated pixels ("conv_first"), at a quarter
        of its cost; one for all, or one for each level but the last, by the level that it comes
        from, lowest first.
      activation: of residual blocks. (Before the last convolution and in embeddings it is silu.)
      groups: channel groups of the norms.
      middle_groups: those of the norm of the attention in the middle; 0: it has no norm; None: as
        ``groups``.
      norm_epsilon: added to variances.
      skip_divisor: what a sum of a block's input and its branch is divided by; the paper tries
        sqrt(2).
      middle_divisor: that of the blocks in the middle; None: as ``skip_divisor``.
      dropout: probability that a number is left out before a block's second convolution.
      embedding: width of the condition's embedding; None: 4 times the channels of level 0.
      frequency_shift: s in the frequencies ``10000^(-i / (n - s))`` of the time, i < n, n half the
        channels of level 0; the DDPM paper's code has 1.
      cosine_first: the order of cosines and sines in the frequency embedding.
      labels: what a label is: a class id ("classes"), or a number that is embedded as the time is
        ("numbers"), such as the noise level of the small image in a cascade.
      num_classes: classes; 0 for a network without class labels.
      null_class: whether label ``num_classes`` is the null label.
      class_dropout: probability that a label becomes the null class in training.
      dtype: the compute dtype of products and convolutions; parameters, norms, softmax, sums with
        skip connections' divisors and the output stay float32.
      remat: whether the activations of residual blocks and attention are computed again in the
        backward pass, not stored.
      attention: implementation of attention, see `jaxgen.nn.attention`.
      temporal: whether data are videos [B, T, Y, X, C], whose frames meet in attention over frames
        after each attention over pixels, or in convolutions. It adds parameters and changes none;
        all else is of frames, norms included.
      temporal_layer: where frames meet: "attention" after each attention over pixels, or
        "convolution" over three frames after each residual block that changes no resolution.
      temporal_buckets: buckets of offsets in time, each a learnt number in that attention.
      temporal_distance: frames from which on offsets of one sign share a bucket.
      text_width: C, width of the states of texts; 0 for a network that reads none.
      text_attention: how pixels read them, wherever there is attention: "cross", in transformer
        blocks in its place, whose sums are not divided (Stable Diffusion); "beside", with the
        text's keys and values beside the pixels' own in one softmax (GLIDE); or "alone", with the
        text's keys and values and no others, at a cost linear in the pixels (Imagen's last stage).
      transformer_depth: transformer blocks of a place, of all levels or of each.
      linear_projection: whether features enter and leave them through linear layers; False: through
        convolutions of 1 x 1.
      pooled_width: C2, width of the vector of a text that is added to the condition; 0: none is.
    """

    in_channels: int = 3
    out_channels: int = 3
    channels: tuple[int, ...] = (128, 256, 256, 256)
    blocks: int | tuple[int, ...] = 2
    attention_levels: tuple[int, ...] = (1, 2, 3)
    up_attention_levels: tuple[int, ...] | None = None
    middle_attention: bool = True
    heads: int | tuple[int, ...] | None = None
    head_size: int | None = 64
    adaptive_norm: bool = True
    downsampling: Down | tuple[Down, ...] = "residual"
    upsampling: Up | tuple[Up, ...] = "residual"
    activation: Activation = "silu"
    groups: int = 32
    middle_groups: int | None = None
    norm_epsilon: float = 1e-5
    skip_divisor: float = 1.0
    middle_divisor: float | None = None
    dropout: float = 0.0
    embedding: int | None = None
    frequency_shift: float = 0.0
    cosine_first: bool = True
    labels: Labels = "classes"
    num_classes: int = 0
    null_class: bool = True
    class_dropout: float = 0.0
    dtype: Dtype = "float32"
    remat: bool = False
    attention: Implementation = "auto"
    temporal: bool = False
    temporal_layer: FrameLayer = "attention"
    temporal_buckets: int = 32
    temporal_distance: int = 32
    text_width: int = 0
    text_attention: TextReading = "cross"
    transformer_depth: int | tuple[int, ...] = 1
    linear_projection: bool = False
    pooled_width: int = 0

    training_method: ClassVar[str | None] = None
    """As in `jaxgen.spacetime.transformer_config.TransformerConfig`."""

    def __post_init__(self) -> None:
        """Validates the fields."""
        check_unet_options(self)

    @classmethod
    def adm(cls, image_size: int, **changes: Any) -> "UNetConfig":
        """A published class-conditional ImageNet network, with learnt variances.

        Args:
          image_size: 64, 128 or 256, the side of the image in pixels.
          **changes: fields that differ from it.

        Raises:
          InputError: for any other size.
        """
        if image_size not in ADM:
            raise InputError(
                f"image_size is {image_size}, expected one of {', '.join(map(str, ADM))}"
            )
        shared = {"out_channels": 6, "num_classes": 1000, "null_class": False}
        return cls(**{**shared, **ADM[image_size], **changes})

    @classmethod
    def video_diffusion(cls, data: str, **changes: Any) -> "UNetConfig":
        """A published network of videos of 16 x 64 x 64 (Ho et al. 2022).

        Args:
          data: what it is trained on: "ucf101", "bair", "kinetics", or "text" (the small network
            of captioned videos, here without what reads captions).
          **changes: fields that differ from it.

        Raises:
          InputError: for any other data.
        """
        if data not in VIDEO_DIFFUSION:
            raise InputError(f"data is {data!r}, expected one of {', '.join(VIDEO_DIFFUSION)}")
        return cls(**{**VIDEO_DIFFUSION[data], **changes})

    @classmethod
    def stable_diffusion(cls, version: str, **changes: Any) -> "UNetConfig":
        """A published network of latents, of 8 x 8 pixels each, that reads texts.

        Args:
          version: "1", "2" or "xl".
          **changes: fields that differ from it.

        Raises:
          InputError: for any other version.
        """
        if version not in STABLE_DIFFUSION:
            raise InputError(
                f"version is {version!r}, expected one of {', '.join(STABLE_DIFFUSION)}"
            )
        return cls(**{**STABLE_DIFFUSION[version], **changes})

    @property
    def levels(self) -> int:
        """How many resolutions there are."""
        return len(self.channels)

    @property
    def attention_levels_up(self) -> tuple[int, ...]:
        """Levels with attention on the way up."""
        if self.up_attention_levels is None:
            return self.attention_levels
        return self.up_attention_levels

    @property
    def embedding_width(self) -> int:
        """Width of the embedding of the condition."""
        return 4 * self.channels[0] if self.embedding is None else self.embedding

    @property
    def middle_skip_divisor(self) -> float:
        """What sums in the middle are divided by."""
        return self.skip_divisor if self.middle_divisor is None else self.middle_divisor

    @property
    def down_kinds(self) -> tuple[str, ...]:
        """How each level but the last is left on the way down, from level 0."""
        return self._per_level(self.downsampling)

    @property
    def up_kinds(self) -> tuple[str, ...]:
        """How each level but level 0 is left on the way up, from the lowest."""
        return self._per_level(self.upsampling)

    def _per_level(self, kinds: str | tuple[str, ...]) -> tuple[str, ...]:
        return (kinds,) * (self.levels - 1) if isinstance(kinds, str) else kinds

    def block_options_at(self, level: int) -> BlockOptions:
        """What all blocks of a level have in common; levels differ in heads alone."""
        names = (field.name for field in dataclasses.fields(BlockOptions))
        options = {name: getattr(self, name) for name in names}
        return BlockOptions(**options | {"heads": per_level(self, "heads")[level]})

    @property
    def has_transformers(self) -> bool:
        """Whether attention is in transformer blocks, with attention to texts."""
        return self.text_width > 0 and self.text_attention == "cross"

    def check_input(
        self,
        z: Float[Array, "B Y X C"] | Float[Array, "B T Y X C"],
        time: Float[Array, "B"] | Float[Array, "B T"],
        label: Int[Array, "B *P"] | Float[Array, "B *P"] | None,
        image_frames: int = 0,
        alone_B: Bool[Array, "B"] | None = None,
    ) -> FrameRows:
        """Refuses input that does not fit the network.

        Returns:
          Which frames belong together; images are videos of one frame.

        Raises:
          InputError: naming the array, its shape and what was expected.
        """
        shape = z.shape
        factor = 2 ** (self.levels - 1)
        data, axes = ("videos", "B, T, Y, X") if self.temporal else ("images", "B, Y, X")
        if len(shape) != 4 + self.temporal or shape[-1] != self.in_channels:
            raise InputError(f"{data} have shape {shape}, expected [{axes}, {self.in_channels}]")
        if not all(side and side % factor == 0 for side in shape[-3:-1]):
            raise InputError(
                f"{data} have shape {shape}, expected height and width divisible by {factor}: "
                f"the network has {self.levels} levels"
            )
        rows = FrameRows()
        if self.temporal:
            rows = rows_of_frames(shape, image_frames, alone_B)
            time = _first_of("time has", time, shape[:2])
            label = _first_of("labels have", label, (shape[0], 1 + image_frames))
        elif image_frames or alone_B is not None:
            raise InputError("image_frames or alone_B are given for images, expected videos")
        if self.labels == "classes":
            check_condition(shape[0], time, label, self.num_classes)
            return rows
        check_condition(shape[0], time, None, 0)
        if label is None or label.shape != shape[:1]:
            given = "None" if label is None else f"of shape {label.shape}"
            raise InputError(
                f"labels are {given}, expected [{shape[0]}]: one number for each example"
            )
        return rows

    def make_model(self) -> "UNet":
        """The network."""
        return UNet(self)


class _Given(NamedTuple):
    """What layers read beside features: conditions and texts of rows, the mode, whose rows."""

    condition: Float[Array, "N D"]
    train: bool
    rows: FrameRows
    text: TextStates | None


class UNet(nn.Module):
    """A denoiser: noisy images or videos, times and labels to predictions.

    Attributes:
      config: the options.
    """

    config: UNetConfig

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "B Y X C"] | Float[Array, "B T Y X C"],
        time: Float[Array, "B"] | Float[Array, "B T"],
        label_B: Int[Array, "B *P"] | Float[Array, "B *P"] | None = None,
        *,
        train: bool = False,
        image_frames: int = 0,
        alone_B: Bool[Array, "B"] | None = None,
        text_BNC: Float[Array, "B N C2"] | None = None,
        text_mask_BN: Bool[Array, "B N"] | None = None,
        pooled_BC: Float[Array, "B C3"] | None = None,
    ) -> Float[Array, "B Y X C_out"] | Float[Array, "B T Y X C_out"]:
        """The per-pixel prediction, [B, Y, X, out_channels] or [B, T, ...], in float32.

        Args:
          z: [B, Y, X, in_channels] noisy images, or [B, T, Y, X, in_channels] videos where the
            network is temporal; 2^(levels - 1) divides height and width.
          time: [B] times, or [B, T] of frames; the frequencies are made for 0 to 1000.
          label_B: [B] class ids, ``num_classes`` for the null class; or numbers, where the config
            says that labels are; None for a network without labels. Of a clip with images: [B], or
            [B, 1 + image_frames], that of the clip and those of the images.
          train: whether dropout is on and labels are dropped; needs the random stream "dropout".
          image_frames: how many of the T frames, the last ones, are independent images.
          alone_B: [B], whether each frame of a video is denoised alone; None: none.
          text_BNC: [B, N, text_width] states of texts, of networks that read them.
          text_mask_BN: [B, N], True where a token is; None: everywhere, so that padding is seen, as
            Stable Diffusion has it.
          pooled_BC: [B, pooled_width] vectors of texts, likewise.

        Raises:
          InputError: for shapes that do not fit the network.
        """
        c = self.config
        rows = c.check_input(z, time, label_B, image_frames, alone_B)
        check_text_tokens(c, text_BNC, len(z))
        check_text_mask(text_mask_BN, text_BNC)
        check_pooled(c, pooled_BC, z.shape[:1])
        condition_ND = self._condition(time, label_B, pooled_BC, train, rows)
        given = _Given(condition_ND, train, rows, self._text(text_BNC, text_mask_BN, rows))
        z_NYXC = z.reshape(-1, *z.shape[-3:])
        x = conv(c.channels[0], (None, "embed"), c.dtype, name="conv_in")(z_NYXC).astype(
            jnp.float32
        )
        x, stack = self._down(x, given)
        x = self._middle(x, given)
        x = self._up(x, stack, given)
        x = nn.silu(group_norm(c.groups, c.norm_epsilon, name="norm_out")(x))
        output = conv(c.out_channels, ("embed", None), c.dtype, name="conv_out", init=zeros)
        return output(x).astype(jnp.float32).reshape(*z.shape[:-1], c.out_channels)

    def _text(self, text_BNC: Any, mask_BN: Any, rows: FrameRows) -> TextStates | None:
        """The texts of rows, all frames of a video with its own."""
        if text_BNC is None:
            return None
        mask = None if mask_BN is None else self._of_rows(mask_BN, 1, rows)
        text_BNC = without_padding(text_BNC, mask_BN)
        return TextStates(self._of_rows(text_BNC, 1, rows), mask)

    def _condition(
        self, time: Array, label: Any, pooled_BC: Any, train: bool, rows: FrameRows
    ) -> Float[Array, "N D"]:
        """The embedding of the time of each row, plus those of text and label where there are."""
        c = self.config
        waves = c.channels[0], c.embedding_width, c.frequency_shift, c.cosine_first
        c_ND = WaveEmbedding(*waves, name="time")(self._of_rows(time, time.ndim, rows))
        if c.pooled_width:
            pooled_BD = VectorEmbedding(c.embedding_width, name="pooled")(pooled_BC)
            c_ND = c_ND + self._of_rows(pooled_BD, 1, rows)
        if c.labels == "numbers":
            number_N = self._of_rows(label, label.ndim, rows)
            return c_ND + WaveEmbedding(*waves, name="label")(number_N)
        if not c.num_classes:
            return c_ND
        embedding = LabelEmbedding(
            c.num_classes, c.embedding_width, c.null_class, c.class_dropout, name="label"
        )
        # Looked up before they are spread, so that a label is dropped of all frames or of none.
        label_D = embedding(label.reshape(-1), train=train).reshape(*label.shape, -1)
        return c_ND + self._of_rows(label_D, label.ndim, rows)

    def _of_rows(self, value: Array, axes: int, rows: FrameRows) -> Array:
        """Values of examples (with one leading axis), or of their parts (two), as those of rows."""
        if not self.config.temporal:
            return value
        return rows.spread(value if axes == 2 else value[:, None])

    def _down(self, x: Array, given: _Given) -> tuple[Array, list[Array]]:
        """Through the levels to the lowest; what the way up will read, last first to be read."""
        c = self.config
        stack = [x]
        for level, features in enumerate(c.channels):
            for i in range(per_level(c, "blocks")[level]):
                x = self._block(features, f"down_{level}_block_{i}")(x, *given[:2])
                x = self._convolve_frames(x, given, f"down_{level}", i)
                if level in c.attention_levels:
                    x = self._attend(x, given, f"down_{level}", i, level)
                stack.append(x)
            if level < c.levels - 1:
                x = self._resample(x, given, f"down_{level}", c.down_kinds[level], "down")
                stack.append(x)
        return x, stack

    def _middle(self, x: Array, given: _Given) -> Array:
        c = self.config
        divisor = c.middle_skip_divisor
        x = self._block(c.channels[-1], "middle_block_0", divisor)(x, *given[:2])
        x = self._convolve_frames(x, given, "middle", 0)
        if c.middle_attention:
            x = self._attend(x, given, "middle", 0, c.levels - 1)
        return self._block(c.channels[-1], "middle_block_1", divisor)(x, *given[:2])

    def _up(self, x: Array, stack: list[Array], given: _Given) -> Array:
        """Back to the full resolution; step 0 is the lowest level."""
        c = self.config
        for step, features in enumerate(reversed(c.channels)):
            level = c.levels - 1 - step
            for i in range(per_level(c, "blocks")[level] + 1):
                x = jnp.concatenate([x, stack.pop()], axis=-1)
                x = self._block(features, f"up_{step}_block_{i}")(x, *given[:2])
                x = self._convolve_frames(x, given, f"up_{step}", i)
                if level in c.attention_levels_up:
                    x = self._attend(x, given, f"up_{step}", i, level)
            if step < c.levels - 1:
                x = self._resample(x, given, f"up_{step}", c.up_kinds[step], "up")
        return x

    def _block(
        self, features: int, name: str, divisor: float | None = None, resample: Resample = ""
    ) -> nn.Module:
        c = self.config
        # Argument 3, train, is a Python value (0 is the module itself).
        make = nn.remat(ResidualBlock, static_argnums=(3,)) if c.remat else ResidualBlock
        return make(c.block_options_at(0), features, resample, divisor or c.skip_divisor, name=name)

    def _attend(self, x: Array, given: _Given, place: str, i: int, level: int) -> Array:
        """Attention over the pixels of each frame and to texts, and over the frames of videos."""
        c = self.config
        options, name = c.block_options_at(level), f"{place}_attention_{i}"
        if c.has_transformers:
            depth = per_level(c, "transformer_depth")[level]
            transformer = self._rematted(TextTransformer)
            x = transformer(options, depth, c.linear_projection, name=name)(x, given.text)
        else:
            groups, divisor = c.groups, c.skip_divisor
            if place == "middle":
                groups = groups if c.middle_groups is None else c.middle_groups
                divisor = c.middle_skip_divisor
            pixels = self._rematted(PixelAttention)
            alone = c.text_attention == "alone"
            x = pixels(options, groups, divisor, alone, name=name)(x, given.text)
        if not c.temporal or c.temporal_layer != "attention":
            return x
        frames = self._rematted(FrameAttention)
        sizes = given.rows.frames, c.temporal_buckets, c.temporal_distance
        layer = frames(options, *sizes, name=f"{place}_temporal_{i}")
        return layer(x, given.rows.segment_BT)

    def _convolve_frames(self, x: Array, given: _Given, place: str, i: int) -> Array:
        """The convolution over frames behind a residual block, in networks that have them."""
        c = self.config
        if not c.temporal or c.temporal_layer != "convolution":
            return x
        layer = self._rematted(FrameConvolution)
        layer = layer(c.block_options_at(0), given.rows.frames, name=f"{place}_temporal_{i}")
        return layer(x, given.rows.segment_BT)

    def _rematted(self, module: Any) -> Any:
        return nn.remat(module) if self.config.remat else module

    def _resample(
        self, x: Array, given: _Given, place: str, kind: str, direction: Resample
    ) -> Array:
        """Half or twice the resolution, as the config says for the place."""
        name = f"{place}_resample"
        if kind == "residual":
            return self._block(x.shape[-1], name, resample=direction)(x, *given[:2])
        return Resampling(kind, direction, self.config.dtype, name=name)(x)


def _first_of(name: str, value: Any, shape: tuple[int, ...]) -> Any:
    """Those of examples: themselves, or the first of each of so many parts.

    Raises:
      InputError: for another number of parts.
    """
    if value is None or value.ndim != 2:
        return value
    if value.shape != shape:
        raise InputError(f"{name} shape {value.shape}, expected [{shape[0]}] or {list(shape)}")
    return value[:, 0]
