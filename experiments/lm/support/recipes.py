"""Recipes: how the networks of the experiments are trained, and the flags that choose."""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from jaxgen.axes import MODEL
from jaxgen.errors import InputError
from jaxgen.lm.nplm import NPLMConfig
from jaxgen.parallel import current_mesh
from jaxgen.training import LoopConfig, OptimizerConfig
from jaxgen.training.optimizers import ScheduleName
from jaxgen.training.saved_names import register_config

METRIC = "validation/perplexity"
"""The figure that says which parameters of a run are the best."""

MOST_STEPS_PER_CALL = 16
_CALLS_PER_EVALUATION = 4


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
      optimizer: the update.
      schedule: how its learning rate changes over the run.
      warmup_steps: updates at whose end the learning rate is highest; at most a tenth of the run.
      batch_size: B, examples per update.
      epochs: passes over the training part, at most.
      per_example: the learning rate is that of one example: it is multiplied by B, so that the
        update is e_t times the *sum* of the gradients, and an epoch goes as far whatever B.
      evaluations_per_epoch: how often the validation perplexity is looked at. The parameters with
        the least one are the ones that count.
      patience: stop after so many evaluations in a row without a new best; None: never.
      accumulate: microbatches of each update, one after the other.
      unigram_bias: start b at the logarithms of the training part's relative frequencies, so that
        the untrained network is a unigram model.
    """

    optimizer: OptimizerConfig
    schedule: ScheduleName
    warmup_steps: int
    batch_size: int
    epochs: float
    per_example: bool = False
    evaluations_per_epoch: float = 2
    patience: int | None = None
    accumulate: int = 1
    unigram_bias: bool = True

    def __post_init__(self) -> None:
        if not (self.epochs > 0 and math.isfinite(self.epochs)):
            raise InputError(f"epochs is {self.epochs}, expected a number > 0")
        if self.patience is not None and self.patience < 1:
            raise InputError(f"patience is {self.patience}, expected 1 or more")
        if self.accumulate < 1 or self.batch_size % self.accumulate:
            raise InputError(
                f"accumulate is {self.accumulate}, expected a divisor of the batch of "
                f"{self.batch_size}"
            )

    @property
    def microbatch_size(self) -> int:
        """Examples of a microbatch."""
        return self.batch_size // self.accumulate

    def optimizer_for(self, steps: int) -> OptimizerConfig:
        """The optimizer of a run of `steps` updates."""
        scale = self.batch_size if self.per_example else 1
        return dataclasses.replace(
            self.optimizer,
            learning_rate=self.optimizer.learning_rate * scale,
            inverse_time_rate=self.optimizer.inverse_time_rate * scale,
            schedule=self.schedule,
            warmup_steps=min(self.warmup_steps, steps // 10),
            total_steps=steps,
        )

    def loop_for(self, steps_per_epoch: int, per_call: int | None = None) -> LoopConfig:
        """Steps and intervals, in whole calls of `per_call` steps (None: a power of two)."""
        between = max(1, round(steps_per_epoch / self.evaluations_per_epoch))
        if per_call is None:
            per_call = min(MOST_STEPS_PER_CALL, max(1, between // _CALLS_PER_EVALUATION))
            per_call = 1 << (per_call.bit_length() - 1)
        calls = max(1, round(between / per_call))
        return LoopConfig(
            steps=per_call * max(1, round(self.epochs * steps_per_epoch / per_call)),
            steps_per_call=per_call,
            log_every=per_call * max(1, calls // _CALLS_PER_EVALUATION),
            evaluate_every=per_call * calls,
            checkpoint_every=per_call * calls,
            metric=METRIC,
            patience=self.patience,
        )


MODERN = Recipe(
    OptimizerConfig("adagrad", learning_rate=0.1, initial_accumulator=1e-5),
    schedule="cosine",
    warmup_steps=500,
    batch_size=256,
    epochs=3,
)
"""Minibatches, Adagrad with a linear warm-up and a cosine to zero.

Settled on MLP9 of Table 1 (Brown). Validation perplexity, the best of a run: 279.6; with squares
that start at 1e-7, 1e-6, 1e-4 it is 289.0, 284.4, 279.9 (a rare word's first update is a step of
full length where they start at nothing); with learning rate 0.05 and 1e-7, 294.8 or more. Leaving
out 15 % of features and hidden units, or 10 % of the context words, gains nothing at this size.
"""

PAPER = Recipe(
    OptimizerConfig("sgd", learning_rate=1e-3, inverse_time_rate=1e-8, weight_decay=1e-4),
    schedule="inverse_time",
    warmup_steps=0,
    batch_size=1,
    epochs=40,
    per_example=True,
    evaluations_per_epoch=1,
    patience=3,
    unigram_bias=False,
)
"""Bengio et al. (2003), section 4: one example per update, e_t = 1e-3 / (1 + 1e-8 t), weight decay
1e-4 on weights and C, early stopping on the validation part."""

RECIPES = {"modern": MODERN, "paper": PAPER}


@register_config("lm.recipe", first_format=["experiments.recipes:RecipeFlags"])
@dataclass(frozen=True, kw_only=True)
class RecipeFlags:
    """How networks are trained; None stands for the recipe's own value.

    Attributes:
      recipe: "modern" (minibatches of 256, Adagrad, warm-up, cosine) or "paper" (stochastic
        gradient descent, one example per update, weight decay, early stopping).
      batch_size: examples per update. (The paper's learning rate is per example: it is multiplied
        by this.)
      epochs: passes over the training part, at most.
      learning_rate: the initial or highest one.
      weight_decay: on weights and word features, never on biases.
      patience: stop after so many evaluations without a better validation perplexity.
      accumulate: microbatches of each update, one after the other, to fit it into memory.
    """

    recipe: Literal["modern", "paper"] = "modern"
    batch_size: int | None = None
    epochs: float | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    patience: int | None = None
    accumulate: int = 1

    def chosen(self) -> Recipe:
        """The recipe with the values given."""
        recipe = RECIPES[self.recipe]
        optimizer = _replace_given(recipe.optimizer, self, ("learning_rate", "weight_decay"))
        recipe = _replace_given(recipe, self, ("batch_size", "epochs", "patience", "accumulate"))
        return dataclasses.replace(recipe, optimizer=optimizer)


def _replace_given(base: Any, flags: RecipeFlags, names: Iterable[str]) -> Any:
    given = {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}
    return dataclasses.replace(base, **given)


@register_config("lm.network", first_format=["experiments.recipes:NetworkFlags"])
@dataclass(frozen=True, kw_only=True)
class WordNetworkFlags:
    """The network (Bengio et al. 2003, equation 1).

    Attributes:
      order: n; the n - 1 words before predict the next.
      features: m, the embedding dimension of a word.
      hidden: h, hidden units; 0 for none.
      direct: whether the word features are connected to the outputs directly.
      dropout: share of features and hidden units that are left out in training.
    """

    order: int = 5
    features: int = 30
    hidden: int = 100
    direct: bool = False
    dropout: float = 0.0

    def config(self, vocabulary_size: int) -> NPLMConfig:
        """The configuration for a vocabulary, its output units in blocks for the current mesh."""
        blocks = current_mesh().shape[MODEL]
        return NPLMConfig(vocabulary_size, output_blocks=blocks, **dataclasses.asdict(self))
