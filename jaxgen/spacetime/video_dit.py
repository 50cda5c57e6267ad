"""The diffusion transformer of videos, on clips of one size and on packs of any.

DiT (Peebles & Xie 2023) on tubelets (P_t, P_y, P_x). An image is a video of one frame. Which tokens
attend to each other is an option (`jaxgen.spacetime.attention_patterns`), and so are positions
(`video_positions`), conditioning (`transformer_blocks`), texts and further numbers. With the
defaults - joint attention, waves, adaLN-Zero - the network *is* DiT at one frame: the same
parameters, the same prediction.

**Packs** (Dehghani et al. 2023, "Patch n' Pack"). Examples of several sizes follow each other in
one sequence of fixed length (`jaxgen.data.packing` makes them). Tokens attend to those of their own
example, and each example has its own times, class, numbers and text: what is predicted of an
example does not depend on the others in its pack. Neither does it where one of them has a number
that is not finite: the network works with zeros in its place, and its prediction is nan.

**Sharding.** Heads and hidden units are spread over the mesh axis ``model``, tokens over
``sequence`` where it divides their number (with those that stand beside them in context).
"""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Real

from jaxgen.nn.dense import Dense
from jaxgen.nn.embeddings import Condition, TextEmbedding
from jaxgen.nn.packs import of_tokens
from jaxgen.nn.patches import Patch, patch_sides, patchify, unpatchify
from jaxgen.nn.text_inputs import without_padding
from jaxgen.nn.token_sharding import shard_tokens
from jaxgen.nn.video_rotary import RotaryForm
from jaxgen.spacetime.attention_patterns import (
    AttentionPattern,
    block_patterns,
    clip_views,
    pack_views,
)
from jaxgen.spacetime.text_context import (
    TextBlocks,
    TextContext,
    TextUse,
    clip_context,
    pack_context,
)
from jaxgen.spacetime.transformer_blocks import PARTS, DiTBlock, FinalLayer, VideoConditioning
from jaxgen.spacetime.transformer_config import TransformerConfig
from jaxgen.spacetime.video_checks import check_clip, check_options, check_pack
from jaxgen.spacetime.video_positions import Positions, TimeWaves, VideoPositions
from jaxgen.spacetime.video_tokens import (
    VideoTokens,
    clip_tokens,
    condition_tokens,
    context_beside,
    finite_examples,
    hold_for_all,
    pack_tokens,
    padded_length,
    rows_of_tokens,
)


@dataclasses.dataclass(frozen=True)
class VideoDiTConfig(TransformerConfig):
    """Options of a VideoDiT; the defaults are those of DiT-S/2, frame by frame.

    Attributes:
      patch: P_t, P_y, P_x: frames, rows and columns of a tubelet.
      positions: see `jaxgen.spacetime.video_positions`.
      attention_pattern: see `jaxgen.spacetime.attention_patterns`.
      causal: whether no token sees a later frame.
      window: frames that a token sees on either side of its own; None for all.
      time_waves: of "sincos", where waves of the frame go: "tokens", "first_time_block",
        "time_attention", or "auto": to the tokens with joint attention, else to attention in time.
      rotary: of "rotary", the form (`jaxgen.nn.video_rotary`).
      max_grid: of tables of positions, frames, rows and columns.
      conditioning: see `jaxgen.spacetime.transformer_blocks`.
      numbers: names of further numbers that predictions depend on, such as "fps".
      text_width: C, of the tokens of texts; 0 for a network without texts.
      text: whether texts are attended to in each block ("cross") or are tokens beside those of the
        video ("in_context").
      null_text: whether a learnt token stands for no text.
      text_blocks: of "cross", which blocks attend to texts: "all", or those that attend in "space".
      text_query_norm: of "cross", whether there is a norm in front of it (PixArt and Latte: none).
      pooled_width: of the one vector of a text or image, whose embedding is added to the time's; 0
        for a network without.
    """

    patch: Patch = (1, 2, 2)
    positions: Positions = "sincos"
    attention_pattern: AttentionPattern = "joint"
    causal: bool = False
    window: int | None = None
    time_waves: TimeWaves = "auto"
    rotary: RotaryForm = "wan"
    max_grid: tuple[int, int, int] = (16, 32, 32)
    conditioning: VideoConditioning = "adaln_zero"
    numbers: tuple[str, ...] = ()
    text_width: int = 0
    text: TextUse = "cross"
    null_text: bool = True
    text_blocks: TextBlocks = "all"
    text_query_norm: bool = True
    pooled_width: int = 0

    axes: ClassVar[int] = 3

    def __post_init__(self) -> None:
        """Validates the fields."""
        super().__post_init__()
        object.__setattr__(self, "patch", patch_sides(self.patch, self.axes))
        check_options(self)

    @property
    def time_is_limited(self) -> bool:
        """Whether tokens do not see all frames."""
        return self.causal or self.window is not None

    @property
    def has_context(self) -> bool:
        """Whether there are tokens beside those of the video."""
        in_text = bool(self.text_width) and self.text == "in_context"
        return in_text or self.conditioning == "in_context"

    @property
    def waves_go_to(self) -> TimeWaves:
        """Where the waves of the frame go."""
        if self.time_waves != "auto":
            return self.time_waves
        return "tokens" if self.attention_pattern == "joint" else "time_attention"

    def make_model(self) -> "VideoDiT":
        """The network."""
        return VideoDiT(self)


class VideoDiT(nn.Module):
    """A denoiser: noisy videos, times and labels to predictions.

    Attributes:
      config: the options.
    """

    config: VideoDiTConfig

    def setup(self) -> None:
        """Makes the embeddings, the blocks and the final layer, as DiT's."""
        c = self.config
        self.patch_embedding = Dense((c.width,), ("patch", "embed"), c.dtype)
        self.condition = Condition(
            c.width,
            c.num_classes,
            c.null_class,
            c.class_dropout,
            numbers=len(c.numbers),
            has_vector=c.pooled_width > 0,
        )
        to_tokens = c.waves_go_to == "tokens"
        self.position = VideoPositions(
            c.width, c.heads, c.positions, c.rotary, c.max_grid, to_tokens
        )
        shared = c.conditioning == "adaln_shared"
        if shared:
            names = "embed", None, "modulation"
            self.shared_modulation = Dense((PARTS[c.conditioning], c.width), names, c.dtype)
        if c.text_width:
            self.text = TextEmbedding(c.width, c.null_text, c.dtype)
        block = nn.remat(DiTBlock) if c.remat else DiTBlock
        crosses = bool(c.text_width) and c.text == "cross"
        self.blocks = [
            block(
                c,
                c.conditioning,
                attends_in_time=pattern.then_in_time,
                attends_to_text=crosses and not (pattern.is_temporal and c.text_blocks == "space"),
                norm_before_text=c.text_query_norm,
            )
            for pattern in block_patterns(c.attention_pattern, c.depth)
        ]
        self.final = FinalLayer(c, adaptive=c.conditioning in PARTS, shared=shared)

    def __call__(
        self,
        z_BTYXC: Float[Array, "B T Y X C"],
        time_B: Float[Array, "B"] | Float[Array, "B L"],
        label_B: Int[Array, "B"] | None = None,
        *,
        numbers_BP: Float[Array, "B P"] | None = None,
        text_BNC: Float[Array, "B N C2"] | None = None,
        text_mask_BN: Bool[Array, "B N"] | None = None,
        pooled_BC: Float[Array, "B C3"] | None = None,
        spacing: Real[Any, "3"] | Real[Any, "B 3"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B T Y X C_out"]:
        """The per-pixel prediction, [B, T, Y, X, out_channels] in float32.

        Args:
          z_BTYXC: [B, T, Y, X, in_channels] noisy videos; of images T = 1.
          time_B: [B] times of examples; [B, T] of frames (of tubelets, where they are longer), or
            [B, L] of tokens; the frequencies are made for 0 to 1000.
          label_B: [B] class ids, ``num_classes`` for the null class; None without classes.
          numbers_BP: the numbers that the configuration names, nan where not known.
          text_BNC: tokens of texts; None for no text.
          text_mask_BN: True where there is a token; None for everywhere.
          pooled_BC: one vector of a text or image for each example; None for a network without.
          spacing: what places are multiplied by (`jaxgen.nn.video_rotary.clip_spacing`).
          train: whether labels are dropped, which needs the random stream "dropout".

        Raises:
          InputError: for shapes that do not fit the network.
        """
        c = self.config
        texts = text_BNC, text_mask_BN, pooled_BC
        grid = check_clip(c, z_BTYXC, time_B, label_B, numbers_BP, *texts, spacing)
        tokens = clip_tokens(
            patchify(z_BTYXC, c.patch),
            grid,
            clip_views(grid, c.causal, c.window),
            time_B,
            spacing,
        )
        text = None
        if c.text_width:
            if text_BNC is None:
                text_BNC = jnp.zeros((len(time_B), 0, c.text_width))
            text_BND, null_D = self.text(without_padding(text_BNC, text_mask_BN))
            text = clip_context(text_BND, text_mask_BN, null_D)
        conditions = self.condition.each(time_B, label_B, numbers_BP, pooled_BC, train=train)
        return unpatchify(self._predict(tokens, conditions, text), grid, c.patch)

    def packed(
        self,
        tokens_BLF: Float[Array, "B L F"],
        place_BLA: Real[Array, "B L 3"],
        segment_BL: Int[Array, "B L"],
        time_BE: Float[Array, "B E"] | Float[Array, "B E N"],
        label_BE: Int[Array, "B E"] | None = None,
        *,
        numbers_BEP: Float[Array, "B E P"] | None = None,
        text_BNC: Float[Array, "B N C2"] | None = None,
        text_segment_BN: Int[Array, "B N"] | None = None,
        pooled_BEC: Float[Array, "B E C3"] | None = None,
        spacing_BE3: Real[Array, "B E 3"] | None = None,
    ) -> Float[Array, "B L F_out"]:
        """The prediction for the patches of packed examples, in float32.

        Args:
          tokens_BLF: noisy patches, [B, L, P_t P_y P_x in_channels].
          place_BLA: frame, row and column of each in its own example, in patches.
          segment_BL: e + 1 where a token is of example e of its pack, 0 for padding.
          time_BE: the time of each example; or [B, E, N] of each of its frames, N at most.
          label_BE: the class of each, ``num_classes`` for the null class; None without classes.
          numbers_BEP: the numbers that the configuration names, nan where not known.
          text_BNC: the tokens of the texts of a pack's examples, one after the other.
          text_segment_BN: e + 1 where a token is of the text of example e, 0 for padding.
          pooled_BEC: one vector of a text or image for each example; None for a network without.
          spacing_BE3: what the places of each example are multiplied by.

        Returns:
          [B, L, P_t P_y P_x out_channels]; what is given for padding means nothing. nan for an
          example with a number that is not finite.

        Raises:
          InputError: for shapes that do not belong together or do not fit the network.
        """
        c = self.config
        check_pack(
            c,
            tokens_BLF,
            place_BLA,
            segment_BL,
            time_BE,
            label_BE,
            numbers_BEP,
            text_BNC,
            text_segment_BN,
            pooled_BEC,
            spacing_BE3,
        )
        batch, examples = time_BE.shape[:2]
        sound_BE = finite_examples(tokens_BLF, segment_BL, time_BE, spacing_BE3)
        if spacing_BE3 is not None:
            spacing_BE3 = jnp.where(sound_BE[..., None], spacing_BE3, 1)
        text = None
        if c.text_width:
            if text_BNC is None or text_segment_BN is None:
                text_BNC = jnp.zeros((batch, 0, c.text_width))
                text_segment_BN = jnp.zeros((batch, 0), jnp.int32)
            finite_BN = jnp.isfinite(text_BNC).all(axis=-1)
            sound_BE &= hold_for_all(finite_BN, text_segment_BN, examples)
            text_BND, null_D = self.text(jnp.where(finite_BN[..., None], text_BNC, 0))
            text = pack_context(text_BND, text_segment_BN, null_D, examples)
        if pooled_BEC is not None:
            finite_BE = jnp.isfinite(pooled_BEC).all(axis=-1)
            sound_BE &= finite_BE
            pooled_BEC = jnp.where(finite_BE[..., None], pooled_BEC, 0)
        sound_BL = of_tokens(sound_BE, segment_BL) & (segment_BL > 0)
        tokens = pack_tokens(
            jnp.where(sound_BL[..., None], tokens_BLF, 0),
            place_BLA,
            segment_BL,
            pack_views(place_BLA, segment_BL, c.causal, c.window),
            time_BE,
            spacing_BE3,
            from_first=c.positions == "rotary",  # differences count, and small angles are exact
        )
        sound_BE = sound_BE.reshape(batch, examples, *(1,) * (time_BE.ndim - 2))
        time_BE = jnp.where(sound_BE, time_BE, 0)
        conditions = self.condition.each(time_BE, label_BE, numbers_BEP, pooled_BEC)
        outputs_BLF = self._predict(tokens, conditions, text)
        return jnp.where((sound_BL | (segment_BL == 0))[..., None], outputs_BLF, jnp.nan)

    def _predict(
        self, tokens: VideoTokens, conditions: list[Array], text: TextContext | None
    ) -> Float[Array, "B L F"]:
        """From noisy patches to predicted ones, whatever their places."""
        c = self.config
        x_BLD = self.patch_embedding(shard_tokens(tokens.values_BLF)).astype(jnp.float32)
        placed = self.position(tokens.place, tokens.side)
        x_BLD = x_BLD if placed.added is None else x_BLD + placed.added
        length, in_context = x_BLD.shape[1], c.conditioning == "in_context"
        total = _in_rows(sum(conditions[1:], conditions[0]))
        angle, waves = placed.angle, placed.time_waves
        if c.has_context:
            beside = text if c.text == "in_context" else None
            extra_BND, tokens = context_beside(
                tokens, conditions if in_context else None, beside, total.shape[-2]
            )
            x_BLD = jnp.concatenate([x_BLD, extra_BND], axis=1)
            angle, waves = (padded_length(a, extra_BND.shape[1]) for a in (angle, waves))
        rows_BLE = None
        if tokens.row_BL is not None:
            rows_BLE = rows_of_tokens(tokens.row_BL, total.shape[1])
        rest = {"angle": angle, "example_BLE": rows_BLE}
        rest |= self._text_options(x_BLD, tokens, text)
        condition: Array | None = total
        if c.conditioning == "adaln_shared":
            condition = self.shared_modulation(nn.silu(total)).astype(jnp.float32)
        elif c.conditioning == "cross":
            condition = condition_tokens(conditions)
            rest["cross_segments"] = _cross_segments(tokens, total, len(conditions))
        elif in_context:
            condition = None
        x_BLD = self._blocks(x_BLD, condition, tokens, waves, rest)
        if rows_BLE is not None:
            rows_BLE = rows_BLE[:, :length]
        return self.final(x_BLD[:, :length], total, rows_BLE)

    def _text_options(
        self, x_BLD: Array, tokens: VideoTokens, text: TextContext | None
    ) -> dict[str, Any]:
        """What blocks need to attend to texts."""
        if text is None or self.config.text == "in_context":
            return {}
        own_BL = tokens.views["all"].segments_BL
        if own_BL is None:
            own_BL = jnp.zeros(x_BLD.shape[:2], jnp.int32)
        return {"text_BND": text.tokens_BND, "text_segments": (own_BL, text.segment_BN)}

    def _blocks(
        self,
        x_BLD: Array,
        condition: Array | None,
        tokens: VideoTokens,
        waves: Array | None,
        rest: dict[str, Any],
    ) -> Float[Array, "B L D"]:
        """All blocks, each with its own pattern of attention."""
        c = self.config
        patterns = block_patterns(c.attention_pattern, c.depth)
        for pattern, block in zip(patterns, self.blocks, strict=True):
            options = dict(rest, views=tuple(tokens.views[over] for over in pattern.over))
            if pattern.then_in_time:
                options["time_views"] = (tokens.views["time"],)
            if waves is not None and pattern.sees_time:
                if c.waves_go_to == "first_time_block":
                    x_BLD, waves = x_BLD + waves, None
                else:
                    options["time_waves"] = waves
            x_BLD = block(shard_tokens(x_BLD), condition, **options)
        return x_BLD


def _in_rows(total: Array) -> Array:
    """Conditions [B, ..., D] as rows [B, R, D]; those of clips [B, D] stay as they are."""
    return total if total.ndim == 2 else total.reshape(len(total), -1, total.shape[-1])


def _cross_segments(
    tokens: VideoTokens, total: Array, count: int
) -> tuple[Int[Array, "B L"], Int[Array, "B N"]] | None:
    """Which tokens see which condition's: those of their row."""
    if total.ndim == 2:
        return None
    batch, rows = total.shape[:2]
    row_BL = tokens.row_BL
    if row_BL is None:
        row_BL = jnp.tile(jnp.arange(rows), (batch, 1))
    return row_BL, jnp.tile(jnp.repeat(jnp.arange(rows), count), (batch, 1))
