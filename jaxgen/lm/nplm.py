"""The neural probabilistic language model (Bengio, Ducharme, Vincent & Jauvin 2003).

Symbols, for a context ``w_{t-1}, ..., w_{t-n+1}`` and a vocabulary V::

    x = (C(w_{t-1}), ..., C(w_{t-n+1}))        word features, (n-1) m numbers
    a = tanh(d + H x)                          hidden units, h numbers
    y = b + W x + U a                          logits, |V| numbers     (equation 1)
    P(w_t = i | context) = exp(y_i) / sum_j exp(y_j)

The parameters keep the paper's names. U, W and b belong to the output units and are sharded over
the mesh axis ``model`` in blocks of ``ceil(|V| / M)`` (section 3.2,
`jaxgen.parallel.softmax.output_units`); everything before them is computed by every device along
that axis.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from jaxgen.errors import InputError
from jaxgen.parallel.softmax import output_units
from jaxgen.parallel.softmax.output_units import Units, padded_units


@dataclasses.dataclass(frozen=True)
class NPLMConfig:
    """The options of Table 1, and how the model is laid out.

    Attributes:
      vocabulary_size: |V|.
      order: n; the context is the n - 1 words before.
      features: m, the embedding dimension of a word.
      hidden: h, hidden units; 0 for none.
      direct: whether W connects the word features to the outputs.
      dropout: probability that a word feature or a hidden unit is left out in training (not in the
        paper; 0 is off).
      output_blocks: M, blocks in which the output units are cut; a multiple of the devices along
        ``model``.
    """

    vocabulary_size: int
    order: int = 5
    features: int = 30
    hidden: int = 100
    direct: bool = False
    dropout: float = 0.0
    output_blocks: int = 1

    def __post_init__(self) -> None:
        """Validates the fields."""
        lowest = {"vocabulary_size": 2, "order": 2, "features": 1, "hidden": 0, "output_blocks": 1}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise InputError(f"{name} is {getattr(self, name)}, expected {low} or more")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}, expected 0 <= dropout < 1")
        if not self.hidden and not self.direct:
            raise InputError("hidden is 0 and direct is off: nothing reaches the output units")

    @property
    def outputs(self) -> int:
        """Output units: one for each word (other models of this family have other ones)."""
        return self.vocabulary_size

    @property
    def predicted(self) -> int:
        """Ids that the network gives probabilities to: the words."""
        return self.vocabulary_size

    @property
    def parameter_count(self) -> int:
        """Free parameters by the paper's formula: |V|(1 + nm + h) + h(1 + (n-1)m) with W.

        Padding of the output units is not counted: it never leaves zero.
        """
        inputs = (self.order - 1) * self.features
        per_output = 1 + self.hidden + (inputs if self.direct else 0)
        words = self.vocabulary_size * self.features
        return self.outputs * per_output + words + self.hidden * (1 + inputs)

    def make_model(self) -> "NPLM":
        """The network."""
        return NPLM(self)


class ContextLayers(nn.Module):
    """What comes before the output units: word features and the hidden layer.

    Attributes:
      words: rows of C.
      features: m.
      inputs: words whose features enter the hidden layer.
      hidden: h, 0 for no hidden layer.
      dropout: probability of leaving a number out.
    """

    words: int
    features: int
    inputs: int
    hidden: int
    dropout: float = 0.0

    def setup(self) -> None:
        """Makes C, H and d."""
        named = nn.with_logical_partitioning
        self.C = self.param(
            "C", named(nn.initializers.normal(0.1), ("words", "embed")), (self.words, self.features)
        )
        if self.hidden:
            shape = (self.inputs * self.features, self.hidden)
            self.H = self.param(
                "H", named(nn.initializers.lecun_normal(), ("embed", "hidden")), shape
            )
            self.d = self.param("d", named(nn.initializers.zeros, ("hidden",)), shape[1:])
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self, words_BL: Int[Array, "B L"], train: bool = False
    ) -> tuple[Float[Array, "B D"], Float[Array, "B F"] | None]:
        """The word features x and the hidden units a.

        Args:
          words_BL: [B, L] ids in the order of the text (nearest word last), L = ``inputs``.
          train: whether dropout is on (it needs the random stream "dropout").

        Returns:
          x [B, L * m], nearest word first as in the paper; and a [B, h], None where h is 0.
        """
        if words_BL.shape[-1] != self.inputs:
            raise InputError(
                f"words have shape {words_BL.shape}, expected [B, {self.inputs}]: "
                f"one id for each of the {self.inputs} inputs"
            )
        x_BD = self.C[words_BL[:, ::-1]].reshape(words_BL.shape[0], -1)
        x_BD = self.drop(x_BD, deterministic=not train)
        if not self.hidden:
            return x_BD, None
        a_BF = jnp.tanh(x_BD @ self.H + self.d)
        return x_BD, self.drop(a_BF, deterministic=not train)


class NPLM(nn.Module):
    """Equation 1 over partitioned output units.

    Attributes:
      config: the options.
    """

    config: NPLMConfig

    def setup(self) -> None:
        """Makes C, H, d (in ``context``), U, W and b."""
        c = self.config
        self.context = ContextLayers(
            c.vocabulary_size, c.features, c.order - 1, c.hidden, c.dropout
        )
        units = padded_units(c.outputs, c.output_blocks)
        if c.hidden:
            self.U = self._output_kernel("U", c.hidden, units)
        if c.direct:
            self.W = self._output_kernel("W", (c.order - 1) * c.features, units)
        self.b = self.param(
            "b", nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",)), (units,)
        )

    def _output_kernel(self, name: str, inputs: int, units: int) -> Array:
        size = self.config.outputs

        def unpadded_normal(key, shape, dtype=jnp.float32):
            # One draw for the true units whatever the padding, which stays zero.
            kernel_DV = jax.random.normal(key, (inputs, size), dtype) * 0.1 / inputs**0.5
            return jnp.pad(kernel_DV, ((0, 0), (0, shape[1] - size)))

        initial = nn.with_logical_partitioning(unpadded_normal, ("embed", "vocab"))
        return self.param(name, initial, (inputs, units))

    def __call__(self, contexts_BL: Int[Array, "B L"]) -> Float[Array, "B V"]:
        """Logits y [B, V'] with V' = |V| padded to the blocks; padding has ``-inf``.

        Args:
          contexts_BL: [B, n-1] ids in the order of the text (nearest word last).
        """
        hidden, units = self.output_layer(contexts_BL)
        return output_units.logits(hidden, units)

    def output_layer(
        self, contexts_BL: Int[Array, "B L"], train: bool = False
    ) -> tuple[tuple[Float[Array, "B D"], ...], Units]:
        """What `jaxgen.parallel.softmax.output_units` takes: the layers below, and the units.

        Args:
          contexts_BL: [B, n-1] ids in the order of the text (nearest word last).
          train: whether dropout is on.

        Returns:
          (a, x), those of the two that feed the units; and the units with kernels (U, W).
        """
        x_BD, a_BF = self.context(contexts_BL, train)
        pairs = []
        if a_BF is not None:
            pairs.append((a_BF, self.U))
        if self.config.direct:
            pairs.append((x_BD, self.W))
        hidden, kernels = zip(*pairs, strict=True)
        return hidden, Units(kernels, self.b, self.config.outputs)

    def loss(
        self,
        contexts_BL: Int[Array, "B L"],
        targets_B: Int[Array, "B"],
        weights_B: Float[Array, "B"] | None = None,
        train: bool = True,
    ) -> tuple[Float[Array, ""], Float[Array, "B"]]:
        """Mean negative log-likelihood in nats (differentiable), and that of each example [B]."""
        hidden, units = self.output_layer(contexts_BL, train)
        return output_units.cross_entropy(hidden, units, targets_B, weights_B)

    def log_probabilities(
        self, contexts_BL: Int[Array, "B L"], targets_B: Int[Array, "B"]
    ) -> Float[Array, "B"]:
        """``log P(target | context)`` [B] in nats."""
        return output_units.log_probabilities(*self.output_layer(contexts_BL), targets_B)

    def top_k(
        self, contexts_BL: Int[Array, "B L"], k: int
    ) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
        """The k likeliest next words: log-probabilities [B, k] in nats and ids [B, k]."""
        return output_units.top_k(*self.output_layer(contexts_BL), k)

    def sample(
        self, contexts_BL: Int[Array, "B L"], key: Key[Array, ""], **options: Any
    ) -> Int[Array, "B"]:
        """A next word for each context [B], with the options of `sharded_logits.sample`."""
        return output_units.sample(*self.output_layer(contexts_BL), key, **options)


def is_weight(path: str) -> bool:
    """Whether weight decay applies to a parameter: to weights and C, never to biases (section 3).

    True for all networks of this package, which keep the paper's names; v is the energy network's.

    Args:
      path: names down to the parameter, joined by "/" ("context/C").
    """
    return path.rsplit("/", 1)[-1] in {"C", "H", "U", "W", "v"}
