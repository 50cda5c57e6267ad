"""The energy-minimisation network (Bengio et al. 2003, section 5.1).

The predicted word is an input like those before it. With x = (C(w_t), C(w_{t-1}), ...,
C(w_{t-n+1})), nm numbers, the candidate's features first::

    E(w_{t-n+1}, ..., w_t) = v . tanh(d + H x) + sum_{i=0}^{n-1} b_{w_{t-i}}
    P(w_t | context) = exp(-E) / sum_w exp(-E of w in the place of w_t)

The b of the context's words divides out. There is no number that belongs to an output unit but b:
a word's probability comes from its features, so that a new word needs a feature vector and no more
(`jaxgen.lm.outputs.oov`).

**Cost.** H x = H_0 C(w_t) + (the rest): the rest is computed once per example and H_0 C(w) once per
word, [V, h], so that V h tanh's per example remain (the softmax network has V h products). They are
made for `pass_size` numbers at a time, in the backward pass again, and never stored.

**Layout.** C and b are rows per word and both are "output units" here: they are sharded over the
mesh axis ``model`` in blocks of ceil(V / M), padded with zeros. The collectives along ``model``
are, per example, the features of the context (each device supplies the words that it owns), the
maximum, the normaliser, the target's energy and the gradient with respect to the context's part of
H x; and, per step, the gradients of H_0 and v. Nothing of size V.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from jaxgen.errors import InputError
from jaxgen.parallel.softmax import output_units, sharded_logits
from jaxgen.parallel.softmax.chosen_units import chosen_rows
from jaxgen.parallel.softmax.output_units import padded_units
from jaxgen.parallel.softmax.sharded_logits import ShardedLogits, in_chunks


@dataclasses.dataclass(frozen=True)
class EnergyNPLMConfig:
    """The options of the network.

    Attributes:
      vocabulary_size: |V|.
      order: n; the context is the n - 1 words before.
      features: m, the embedding dimension of a word.
      hidden: h, hidden units.
      output_blocks: M, blocks in which C and b are cut; a multiple of the devices along ``model``.
    """

    vocabulary_size: int
    order: int = 5
    features: int = 30
    hidden: int = 100
    output_blocks: int = 1

    def __post_init__(self) -> None:
        """Validates the fields."""
        lowest = {"vocabulary_size": 2, "order": 2, "features": 1, "hidden": 1, "output_blocks": 1}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise InputError(f"{name} is {getattr(self, name)}, expected {low} or more")

    @property
    def predicted(self) -> int:
        """Ids that the network gives probabilities to: the words."""
        return self.vocabulary_size

    @property
    def parameter_count(self) -> int:
        """|V|(1 + m) + h(nm + 2): C and b, and H, d and v. Padding is not counted."""
        per_word, per_unit = 1 + self.features, self.order * self.features + 2
        return self.vocabulary_size * per_word + self.hidden * per_unit

    def make_model(self) -> "EnergyNPLM":
        """The network."""
        return EnergyNPLM(self)


class EnergyNPLM(nn.Module):
    """Word probabilities from the energy of a whole n-gram.

    Attributes:
      config: the options.
    """

    config: EnergyNPLMConfig

    def setup(self) -> None:
        """Makes C, H, d, v and b."""
        c, named = self.config, nn.with_logical_partitioning
        rows = padded_units(c.vocabulary_size, c.output_blocks)

        def unpadded_normal(key, shape, dtype=jnp.float32):
            # One draw for the true words whatever the padding, which stays zero. It is small: rare
            # words keep their start, which at standard deviation 1 costs a third in perplexity.
            table_VD = 0.1 * jax.random.normal(key, (c.vocabulary_size, c.features), dtype)
            return jnp.pad(table_VD, ((0, shape[0] - c.vocabulary_size), (0, 0)))

        self.C = self.param("C", named(unpadded_normal, ("vocab", "embed")), (rows, c.features))
        shape = (c.order * c.features, c.hidden)
        self.H = self.param("H", named(nn.initializers.lecun_normal(), ("embed", "hidden")), shape)
        self.d = self.param("d", named(nn.initializers.zeros, ("hidden",)), shape[1:])
        self.v = self.param(
            "v", named(nn.initializers.normal(c.hidden**-0.5), ("hidden",)), shape[1:]
        )
        self.b = self.param("b", named(nn.initializers.zeros, ("vocab",)), (rows,))

    def logits(self, contexts_BL: Int[Array, "B L"]) -> ShardedLogits:
        """-E of every word in the place of w_t, but for the b of the context: yet to be computed.

        Args:
          contexts_BL: [B, n-1] ids in the order of the text (nearest word last).

        Raises:
          InputError: if ``contexts_BL`` has another number of columns.
        """
        c = self.config
        if contexts_BL.shape[-1] != c.order - 1:
            raise InputError(
                f"contexts have shape {contexts_BL.shape}, expected [B, {c.order - 1}]"
            )
        x_BLD = chosen_rows(self.C, contexts_BL[:, ::-1])
        x_BD = x_BLD.reshape(x_BLD.shape[0], -1)
        return ShardedLogits(
            compute=_negative_energies,
            examples=x_BD @ self.H[c.features :] + self.d,
            units=(self.C, self.b),
            letters=("VD", "V"),
            shared=(self.H[: c.features], self.v),
            size=c.vocabulary_size,
        )

    def __call__(self, contexts_BL: Int[Array, "B L"]) -> Float[Array, "B V"]:
        """Logits of the next word [B, V']: -E but for the context's b; padding has ``-inf``."""
        return sharded_logits.values(self.logits(contexts_BL))

    def energy(self, words_BN: Int[Array, "B N"]) -> Float[Array, "B"]:
        """E of n-grams [B, n] in the order of the text, every b counted: [B]."""
        x_BLD = chosen_rows(self.C, words_BN[:, ::-1])
        a_BF = jnp.tanh(x_BLD.reshape(x_BLD.shape[0], -1) @ self.H + self.d)
        b_BL1 = chosen_rows(self.b[:, None], words_BN)
        return a_BF @ self.v + b_BL1.sum(axis=(1, 2))

    def loss(
        self,
        contexts_BL: Int[Array, "B L"],
        targets_B: Int[Array, "B"],
        weights_B: Float[Array, "B"] | None = None,
        train: bool = True,
    ) -> tuple[Float[Array, ""], Float[Array, "B"]]:
        """Mean negative log-likelihood in nats (differentiable), and that of each example [B].

        ``train`` changes nothing: there is no dropout.
        """
        nll_B = -self.log_probabilities(contexts_BL, targets_B)
        loss = jnp.sum(nll_B * output_units.mean_weights(weights_B, len(targets_B)))
        return loss, jax.lax.stop_gradient(nll_B)

    def log_probabilities(
        self, contexts_BL: Int[Array, "B L"], targets_B: Int[Array, "B"]
    ) -> Float[Array, "B"]:
        """``log P(target | context)`` [B] in nats."""
        # Candidates are taken in passes; examples are not.
        return sharded_logits.log_probabilities(
            self.logits(contexts_BL), targets_B, chunk=max(1, len(targets_B))
        )

    def top_k(
        self, contexts_BL: Int[Array, "B L"], k: int
    ) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
        """The k likeliest next words: log-probabilities [B, k] in nats and ids [B, k]."""
        return sharded_logits.top_k(self.logits(contexts_BL), k)

    def sample(
        self, contexts_BL: Int[Array, "B L"], key: Key[Array, ""], **options: Any
    ) -> Int[Array, "B"]:
        """A next word for each context [B], with the options of `sharded_logits.sample`."""
        return sharded_logits.sample(self.logits(contexts_BL), key, **options)


def pass_size() -> int:
    """Numbers tanh(...) that are made at a time: on CPU as many as stay in the cache."""
    return 2**18 if jax.default_backend() == "cpu" else 2**26


def _negative_energies(context_BF, units, shared) -> Float[Array, "B V"]:
    """-v . tanh(context_b + H_0 C(w)) - b_w of one device's examples and words."""
    (C_VD, b_V), (H_DF, v_F) = units, shared
    candidate_VF = C_VD @ H_DF

    @jax.checkpoint
    def one_pass(_, inputs):
        candidate_VF, b_V = inputs
        a_VBF = jnp.tanh(candidate_VF[:, None] + context_BF)
        return (), -(a_VBF @ v_F) - b_V[:, None]

    words = max(1, pass_size() // context_BF.size) if context_BF.size else len(b_V)
    return in_chunks(one_pass, (), (candidate_VF, b_V), words)[1].T
