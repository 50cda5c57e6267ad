"""Embeddings of what a denoiser is conditioned on: time, class, numbers, vectors and texts.

Peebles & Xie 2023 (DiT), following Vaswani et al. 2017 and Dhariwal & Nichol 2021: the time enters
as cosines and sines of 128 frequencies, then a small MLP; the class is a row of a table whose last
row, the null class, stands for the null label, which classifier-free guidance compares with.
Further numbers (motion, frames per second, sizes) enter as the time does, and are added to it; so
is the one vector that an encoder gives of a text or an image, after a small MLP.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.errors import InputError
from jaxgen.nn.dense import Dense, Dtype
from jaxgen.nn.mlp import gelu_tanh

FREQUENCY_FEATURES = 256
MAX_PERIOD = 10_000.0

normal = nn.initializers.normal(0.02)


def time_frequencies(
    time_B: Float[Array, "*B"],
    features: int = FREQUENCY_FEATURES,
    max_period: float = MAX_PERIOD,
    shift: float = 0.0,
) -> Float[Array, "*B D"]:
    """``(cos(w_0 t), ..., cos(w_{n-1} t), sin(w_0 t), ..., sin(w_{n-1} t))``, n = features / 2.

    ``w_i = max_period^(-i / (n - shift))``: periods from 2 pi to about 2 pi max_period, made for
    times between 0 and about 1000. Float32 throughout. An odd ``features`` ends with a zero.

    Args:
      time_B: [B] times, or of any other shape.
      features: numbers per time.
      max_period: sets the slowest frequency.
      shift: 0, or 1 for frequencies that reach 1 / max_period (as in the code of Ho et al. 2020).
    """
    half = features // 2
    w_D = jnp.exp(-jnp.log(max_period) * jnp.arange(half, dtype=jnp.float32) / (half - shift))
    angle_BD = time_B.astype(jnp.float32)[..., None] * w_D
    waves_BD = jnp.concatenate([jnp.cos(angle_BD), jnp.sin(angle_BD)], axis=-1)
    return jnp.pad(waves_BD, [(0, 0)] * time_B.ndim + [(0, features % 2)])


class TimeEmbedding(nn.Module):
    """Frequencies of the time, then ``output(silu(hidden(.)))``, in float32.

    Attributes:
      width: D, the embedding dimension.
      features: numbers of the frequency embedding.
      shift: see `time_frequencies`.
    """

    width: int
    features: int = FREQUENCY_FEATURES
    shift: float = 0.0

    @nn.compact
    def __call__(self, time_B: Float[Array, "*B"]) -> Float[Array, "*B D"]:
        """Times (made for 0 to 1000) of any shape to vectors."""
        waves_BD = time_frequencies(time_B, self.features, shift=self.shift)
        hidden = Dense((self.width,), (None, "embed"), kernel_init=normal, name="hidden")
        output = Dense((self.width,), ("embed", "hidden"), kernel_init=normal, name="output")
        return output(nn.silu(hidden(waves_BD)))


class LabelEmbedding(nn.Module):
    """A row of a table for each class, and one for the null class.

    Attributes:
      num_classes: classes; ids 0 to num_classes - 1.
      width: D, of a row.
      null_class: whether id ``num_classes`` is the null class.
      dropout: probability that a label becomes the null class in training.
    """

    num_classes: int
    width: int
    null_class: bool = True
    dropout: float = 0.0

    @nn.compact
    def __call__(self, label_B: Int[Array, "*B"], *, train: bool = False) -> Float[Array, "*B D"]:
        """The rows of the labels; needs the random stream "dropout" in training."""
        rows = self.num_classes + self.null_class
        table_VD = self.param(
            "table",
            nn.with_logical_partitioning(normal, ("classes", "embed")),
            (rows, self.width),
        )
        if train and self.dropout > 0:
            dropped_B = jax.random.bernoulli(self.make_rng("dropout"), self.dropout, label_B.shape)
            label_B = jnp.where(dropped_B, self.num_classes, label_B)
        return jnp.asarray(table_VD)[label_B]


class NumberEmbedding(nn.Module):
    """A number as the time is embedded; nan, a number that is not known, as a learnt vector.

    Attributes:
      width: D.
    """

    width: int

    @nn.compact
    def __call__(self, number: Float[Array, "*B"]) -> Float[Array, "*B D"]:
        """Numbers (made for 0 to 1000) of any shape to vectors."""
        unknown = jnp.isnan(number)[..., None]
        null_D = self.param(
            "null", nn.with_logical_partitioning(nn.initializers.zeros, ("embed",)), (self.width,)
        )
        embedding = TimeEmbedding(self.width, name="waves")
        return jnp.where(unknown, null_D, embedding(jnp.nan_to_num(number)))


class TextEmbedding(nn.Module):
    """Tokens of a text encoder in the width of a network: ``output(gelu(hidden(.)))``.

    A learnt null token comes last; who has no text sees it instead.

    Attributes:
      width: D.
      null: whether there is a null token.
      dtype: the compute dtype of products.
    """

    width: int
    null: bool = True
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, text_BNC: Float[Array, "B N C"]) -> tuple[Array, Array | None]:
        """The tokens [B, N, D] and the null token [D] or None."""
        hidden = Dense((self.width,), (None, "embed"), self.dtype, name="hidden")
        output = Dense((self.width,), ("embed", "hidden"), self.dtype, name="output")
        null_D = None
        if self.null:
            null_D = self.param(
                "null", nn.with_logical_partitioning(normal, ("embed",)), (self.width,)
            )
        return output(gelu_tanh(hidden(text_BNC))).astype(jnp.float32), null_D


class VectorEmbedding(nn.Module):
    """The pooled vector of a text or image in the width of a network: ``output(silu(hidden(.)))``.

    Attributes:
      width: D.
    """

    width: int

    @nn.compact
    def __call__(self, pooled: Float[Array, "*B C"]) -> Float[Array, "*B D"]:
        """Vectors of any width to vectors of the network's, in float32."""
        hidden = Dense((self.width,), (None, "embed"), name="hidden")
        output = Dense((self.width,), ("embed", "hidden"), kernel_init=normal, name="output")
        return output(nn.silu(hidden(pooled)))


class Condition(nn.Module):
    """The embeddings of time, class, numbers and a vector that a network is conditioned on.

    Attributes:
      width: D.
      num_classes: classes, 0 for a network without labels.
      null_class: whether there is a null class.
      class_dropout: probability that a label becomes the null class in training.
      frequency_shift: see `time_frequencies`.
      numbers: how many further numbers there are.
      has_vector: whether there is the pooled vector of a text or image.
    """

    width: int
    num_classes: int = 0
    null_class: bool = True
    class_dropout: float = 0.0
    frequency_shift: float = 0.0
    numbers: int = 0
    has_vector: bool = False

    def setup(self) -> None:
        """Makes the embeddings."""
        self.time = TimeEmbedding(self.width, shift=self.frequency_shift)
        if self.num_classes:
            self.label = LabelEmbedding(
                self.num_classes, self.width, self.null_class, self.class_dropout
            )
        self.number = [NumberEmbedding(self.width) for _ in range(self.numbers)]
        if self.has_vector:
            self.vector = VectorEmbedding(self.width)

    def __call__(
        self,
        time_B: Float[Array, "B"],
        label_B: Int[Array, "B"] | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "B D"], Float[Array, "B D"] | None]:
        """The embedding of the time and that of the class, None for a network without labels."""
        if not self.num_classes:
            return self.time(time_B), None
        return self.time(time_B), self.label(label_B, train=train)

    def sum(
        self,
        time_B: Float[Array, "*B"],
        label_B: Int[Array, "*E"] | None = None,
        numbers_BP: Float[Array, "*E P"] | None = None,
        pooled_BC: Float[Array, "*E C"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "*B D"]:
        """The embeddings of all conditions added up; arguments as those of `each`."""
        first, *rest = self.each(time_B, label_B, numbers_BP, pooled_BC, train=train)
        return sum(rest, first)

    def each(
        self,
        time_B: Float[Array, "*B"],
        label_B: Int[Array, "*E"] | None = None,
        numbers_BP: Float[Array, "*E P"] | None = None,
        pooled_BC: Float[Array, "*E C"] | None = None,
        *,
        train: bool = False,
    ) -> list[Float[Array, "... D"]]:
        """The embeddings of time, class, numbers and vector, which broadcast to that of the time.

        Args:
          time_B: times of examples, or of their frames: axes behind those of the labels.
          label_B: classes of examples; None for a network without labels.
          numbers_BP: further numbers of examples, nan where not known; None without.
          pooled_BC: the pooled vectors of examples; None for a network without.
          train: whether labels are dropped.
        """
        found = [self.time(time_B)]
        if self.num_classes:
            found.append(self.label(label_B, train=train))
        for i, embedding in enumerate(self.number):
            assert numbers_BP is not None
            found.append(embedding(numbers_BP[..., i]))
        if self.has_vector:
            found.append(self.vector(pooled_BC))
        axes = time_B.ndim + 1
        return [
            vector.reshape(*vector.shape[:-1], *(1,) * (axes - vector.ndim), self.width)
            for vector in found
        ]


def check_condition(
    batch: int,
    time_B: Float[Array, "B"],
    label_B: Int[Array, "B"] | None,
    num_classes: int,
) -> None:
    """Refuses times and labels that do not fit the batch or the network.

    Args:
      batch: B, examples of the noisy data.
      time_B: the times.
      label_B: the labels or None.
      num_classes: what the network was made for; 0 for no labels.

    Raises:
      InputError: naming the array, its shape and what was expected.
    """
    if time_B.shape != (batch,):
        raise InputError(
            f"time has shape {time_B.shape}, expected [{batch}]: one time for each example"
        )
    if not num_classes:
        if label_B is not None:
            raise InputError("labels were given to a network with num_classes=0, expected None")
        return
    if label_B is None:
        raise InputError(
            f"labels are None, expected [{batch}] ids below {num_classes} (or {num_classes}, "
            "the null class, where the network has one)"
        )
    if label_B.shape != (batch,):
        raise InputError(
            f"labels have shape {label_B.shape}, expected [{batch}]: one id for each example"
        )
    if not jnp.issubdtype(label_B.dtype, jnp.integer):
        raise InputError(f"labels have type {label_B.dtype}, expected integers")
