"""Importance-sampling training of the full softmax (Bengio & Senecal 2003, 2008).

The gradient of ``-log P(t)`` is ``-dy_t + sum_j P(j) dy_j``, and the sum over |V| units is what
costs. With k words j_1 ... j_k drawn from a proposal Q it is estimated by self-normalised weights::

    w_s ~ exp(y_{j_s}) / Q(j_s),  sum_s w_s = 1          sum_j P(j) dy_j  ~  sum_s w_s dy_{j_s}

which is the gradient of the surrogate ``-y_t + log(1/k sum_s exp(y_{j_s}) / Q(j_s))``: an estimate
of ``-log P(t)`` itself. Variance and bias fall as 1/k, and with Q = P the normaliser is exact. How
many independent draws from P the weighted ones are worth is

    ESS = (sum_s w_s)^2 / sum_s w_s^2                    effective sample size

**The target** is a word whose exp(y_t) is known anyway. Where it is counted (the default), draws of
it are left out and the normaliser is ``exp(y_t) + 1/k sum_{s: j_s != t} exp(y_{j_s}) / Q(j_s)``,
still unbiased; the ESS then has the whole sum above and the drawn weights alone below. The papers
do not. It costs nothing, and late in training, when P(t) is large and a few draws miss t, it is
what keeps small samples from drifting away: on the built-in corpus (|V| = 1,357, Adam, 2,600
updates; exact 72.5) the validation perplexity is 73.5 against 80.4 at a shared k = 256, and 84.6
against 128.8 at k = 16 bigrams.

**Q** (`jaxgen.lm.outputs.proposals`) is a mixture of uniform and relative frequencies of orders 1
.. n. Its mixture weights are parameters that descend the gradient of KL(P || Q), estimated with the
same weighted samples, so that Q follows the network: uniform at first, n-gram-like later. (The 2008
paper lets the n-gram tables themselves follow too; here they stay those of the text.) With n = 1
all examples of a minibatch share their samples, whose logits are one matrix product. With n >= 2
every example has its own: better ones, but on CPU each costs as much as dozens of shared ones.

**k** is static under `jax.jit`. `SampleSizes` chooses among a few values by the ESS of the last
steps, and a minibatch whose ESS falls short all the same takes the exact gradient, as in the papers
(which decide example by example, here it is the whole minibatch). The ESS of a minibatch is the
harmonic mean of its examples': variance and bias go as 1 / ESS.

Measured on Brown (|V| = 17,906, n = 5, m = 30, h = 100, batches of 512, Adam), processor time of an
update and validation perplexity after 1,400 updates: exact 103 ms, 407; shared k = 512, 2048:
11 ms, 440 and 26 ms, 420; bigrams with k = 16, 24: 16 ms, 420 and 22 ms, 412.
benchmarks/softmax_alternatives.py compares them over whole trainings.

The trained parameters are those of `NPLM`, evaluated with the exact softmax.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxgen.errors import InputError
from jaxgen.lm.nplm import NPLM, NPLMConfig
from jaxgen.lm.outputs.proposals import ContextState, NgramProposal, components, draw, look_up
from jaxgen.parallel.softmax import output_units
from jaxgen.parallel.softmax.chosen_units import chosen_logits
from jaxgen.parallel.softmax.output_units import Hidden, Units


class Samples(NamedTuple):
    """Words drawn from a proposal.

    Attributes:
      ids: [S] where the examples share them, else [B, S].
      log_q: log Q of each, [S] or [B, S].
    """

    ids: Int[Array, "..."]
    log_q: Float[Array, "..."]


class Estimate(NamedTuple):
    """Statistics of the sampling of a minibatch, all without gradient.

    Attributes:
      nll_B: ``-log P(target)`` in nats, estimated, or exact where `exact`.
      weight_BS: the self-normalised weights w_s.
      ess_B: effective sample size of each example.
      ess: that of the minibatch.
      exact: whether the exact gradient was taken.
    """

    nll_B: Float[Array, "B"]
    weight_BS: Float[Array, "B S"]
    ess_B: Float[Array, "B"]
    ess: Float[Array, ""]
    exact: Bool[Array, ""]


def effective_sample_size(
    log_weights_BS: Float[Array, "B S"], log_total_B: Float[Array, "B"] | None = None
) -> Float[Array, "B"]:
    """(sum w)^2 / sum w^2 from logarithms of weights up to any factor.

    Args:
      log_weights_BS: log w of the draws.
      log_total_B: logarithm of the sum above, where it has more terms than the draws.
    """
    if log_total_B is None:
        log_total_B = jax.nn.logsumexp(log_weights_BS, axis=1)
    return jnp.exp(2 * log_total_B - jax.nn.logsumexp(2 * log_weights_BS, axis=1))


def sampled_cross_entropy(
    hidden: Hidden,
    units: Units,
    targets_B: Int[Array, "B"],
    samples: Samples,
    weights_B: Float[Array, "B"] | None = None,
    *,
    least_ess: float = 0.0,
    count_target: bool = True,
) -> tuple[Float[Array, ""], Estimate]:
    """The mean of ``-log P(target)`` with the normaliser estimated from samples.

    Args:
      hidden: the layers h_i [B, D_i] that feed the units, one for each kernel.
      units: the output layer.
      targets_B: ids in [0, V).
      samples: draws from Q; no gradient goes to their densities.
      weights_B: weight of each example (zero leaves it out); None is one each.
      least_ess: where the minibatch's ESS is below it, the exact loss and gradient are taken.
      count_target: whether the target's term of the normaliser is its own, not left to chance.

    Returns:
      The loss in nats, whose gradient is the self-normalised estimate; and the statistics.

    Raises:
      InputError: shapes that do not fit each other.
    """
    weights_B = output_units.mean_weights(weights_B, len(targets_B))
    target_B, y_BS = _logits(hidden, units, targets_B, samples.ids)
    log_weight_BS = y_BS - jax.lax.stop_gradient(samples.log_q)
    # In the scale of the drawn weights, of which there are k, the known term weighs k exp(y_t).
    known_B1 = (target_B + jnp.log(y_BS.shape[1]))[:, None]
    drawn_BS, terms = log_weight_BS, log_weight_BS
    if count_target:
        drawn_BS = jnp.where(samples.ids == targets_B[:, None], -jnp.inf, log_weight_BS)
        terms = jnp.concatenate([known_B1, drawn_BS], axis=1)
    nll_B = jax.nn.logsumexp(terms, axis=1) - known_B1[:, 0]
    log_total_B = jax.lax.stop_gradient(nll_B + known_B1[:, 0])
    ess_B = effective_sample_size(jax.lax.stop_gradient(drawn_BS), log_total_B)
    ess = weights_B.sum() / jnp.sum(weights_B / ess_B)

    def exact(hidden, kernels, bias, nll_B):
        return output_units.cross_entropy(
            hidden, Units(kernels, bias, units.size), targets_B, weights_B
        )

    def estimated(hidden, kernels, bias, nll_B):
        return jnp.sum(nll_B * weights_B), jax.lax.stop_gradient(nll_B)

    short = ess < least_ess
    parameters = tuple(hidden), tuple(units.kernels), units.bias
    loss, nll_B = jax.lax.cond(short, exact, estimated, *parameters, nll_B)
    weight_BS = jax.nn.softmax(jax.lax.stop_gradient(log_weight_BS), axis=1)
    return loss, Estimate(nll_B, weight_BS, ess_B, ess, short)


def _logits(
    hidden: Hidden, units: Units, targets_B: Int[Array, "B"], ids: Int[Array, "..."]
) -> tuple[Float[Array, "B"], Float[Array, "B S"]]:
    """Logits of the targets [B] and of the samples [B, S]."""
    if ids.ndim == 1:
        target_B1 = chosen_logits(
            hidden, units.kernels, units.bias, targets_B[:, None], unit_axis=1
        )
        return target_B1[:, 0], chosen_logits(hidden, units.kernels, units.bias, ids, unit_axis=1)
    kernels = tuple(kernel_DV.T for kernel_DV in units.kernels)
    ids = jnp.concatenate([targets_B[:, None], ids], axis=1)
    y_BS = chosen_logits(hidden, kernels, units.bias, ids)
    return y_BS[:, 0], y_BS[:, 1:]


@dataclasses.dataclass(frozen=True)
class SampledNPLMConfig(NPLMConfig):
    """The network, and the size of the mixture weights that its proposal has.

    Attributes:
      proposal_order: n of Q; with 1 the samples are shared by a minibatch.
      proposal_bins: bins of context frequency: ``make_proposal(counts).bins``.
    """

    proposal_order: int = 1
    proposal_bins: int = 1

    def __post_init__(self) -> None:
        """Refuses a proposal that looks at more words than the network does."""
        super().__post_init__()
        if not 1 <= self.proposal_order <= self.order:
            raise InputError(
                f"proposal_order is {self.proposal_order}, expected 1 to order = {self.order}"
            )
        if self.proposal_bins < 1:
            raise InputError(f"proposal_bins is {self.proposal_bins}, expected 1 or more")

    def make_model(self) -> "SampledNPLM":
        """The network."""
        return SampledNPLM(self)


class SampledNPLM(NPLM):
    """`NPLM` with a second loss that samples; all its own methods are exact.

    Attributes:
      config: the options.
    """

    config: SampledNPLMConfig

    def setup(self) -> None:
        """Makes the parameters of `NPLM`, and the logits of the mixture weights of Q."""
        super().setup()
        c = self.config
        self.mixture = self.param(
            "mixture",
            nn.with_logical_partitioning(nn.initializers.zeros, (None, None)),
            (c.proposal_bins, c.proposal_order + 1),
        )

    def sampled_loss(
        self,
        contexts_BL: Int[Array, "B L"],
        targets_B: Int[Array, "B"],
        proposal: NgramProposal,
        samples: int,
        weights_B: Float[Array, "B"] | None = None,
        *,
        least_ess: float = 0.0,
        count_target: bool = True,
        train: bool = True,
    ) -> tuple[Float[Array, ""], Estimate]:
        """Mean negative log-likelihood in nats, estimated, and the statistics of sampling.

        Its gradient with respect to the network is the importance-sampling estimate, and with
        respect to ``mixture`` that of the estimated KL(P || Q). Needs the random stream "sample".

        Args:
          contexts_BL: [B, n-1] ids in the order of the text (nearest word last).
          targets_B: ids in [0, V).
          proposal: Q, of the configured order and bins.
          samples: k.
          weights_B: weight of each example (zero leaves it out); None is one each.
          least_ess: a minibatch of smaller ESS takes the exact gradient; 0 for never.
          count_target: whether the target's term of the normaliser is exact.
          train: whether dropout is on.

        Raises:
          InputError: where the proposal is of another order or has other bins or words.
        """
        self._check_proposal(proposal)
        mixture_CJ = jax.nn.softmax(self.mixture * MIXTURE_SPEED, axis=-1)
        hidden, units = self.output_layer(contexts_BL, train)
        # Q of order 1 knows nothing of contexts: one row of samples serves all.
        known_BL = contexts_BL if proposal.order > 1 else contexts_BL[:1]
        state = look_up(proposal, known_BL, mixture_CJ)
        ids_BS = draw(proposal, state, self.make_rng("sample"), samples)
        log_q_BS = log_density(proposal, state, ids_BS)
        drawn = Samples(ids_BS, log_q_BS)
        if proposal.order == 1:
            drawn = Samples(ids_BS[0], log_q_BS[0])
        loss, estimate = sampled_cross_entropy(
            hidden,
            units,
            targets_B,
            drawn,
            weights_B,
            least_ess=least_ess,
            count_target=count_target,
        )
        # KL(P || Q) = -sum_j P(j) log Q(j) + what the mixture does not change.
        cross_entropy_B = -jnp.sum(estimate.weight_BS * log_q_BS, axis=1)
        mean_B = output_units.mean_weights(weights_B, len(targets_B))
        divergence = jnp.sum(cross_entropy_B * mean_B)
        return loss + divergence - jax.lax.stop_gradient(divergence), estimate

    def _check_proposal(self, proposal: NgramProposal) -> None:
        c = self.config
        found = (proposal.order, proposal.bins, proposal.vocabulary_size)
        expected = (c.proposal_order, c.proposal_bins, c.vocabulary_size)
        if found != expected:
            raise InputError(
                f"proposal has (order, bins, vocabulary_size) = {found}, expected {expected}"
            )


MIXTURE_SPEED = 10.0
"""Mixture weights are softmax(10 mixture): their logits move 10 times as fast as other parameters
under an optimizer like Adam, whose steps do not depend on the size of gradients."""


def log_density(
    proposal: NgramProposal, state: ContextState, ids_BS: Int[Array, "B S"]
) -> Float[Array, "B S"]:
    """log Q(w | c) of words [B, S] after the contexts of `look_up`."""
    p_BSJ = components(proposal, state, ids_BS)
    return jnp.log(jnp.einsum("BSJ,BJ->BS", p_BSJ, state.weight_BJ))


@dataclasses.dataclass(frozen=True)
class SampleSizes:
    """Chooses k so that the ESS stays at a target.

    Attributes:
      sizes: the values of k to choose from, rising; each is compiled once.
      target: the ESS wanted.
    """

    sizes: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    target: float = 32.0

    def __post_init__(self) -> None:
        """Refuses sizes that do not rise and a target that cannot be met."""
        if not self.sizes or list(self.sizes) != sorted({*self.sizes}) or self.sizes[0] < 1:
            raise InputError(f"sizes are {self.sizes}, expected rising numbers from 1 on")
        if not 1 <= self.target <= self.sizes[-1]:
            raise InputError(f"target is {self.target}, expected 1 to {self.sizes[-1]}")

    def choose(self, samples: int, ess: float) -> int:
        """The least k whose ESS should reach the target, or the largest.

        ESS grows in proportion to k while weights are well-behaved.

        Args:
          samples: k of the last steps.
          ess: the ESS they had.
        """
        enough = [k for k in self.sizes if ess * k / samples >= self.target]
        return enough[0] if enough else self.sizes[-1]
