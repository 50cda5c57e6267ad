"""What the language-model experiments share: recipes, training a network, rivals, mixtures, tables.

Everything works on a `jaxgen.data.Corpus` and, for networks, on the mesh that is set. What takes
long is kept in files of the run's folder, so that a run started again goes on where it was:
training in its checkpoints, probabilities of tokens in ``.npz`` files (`cached_arrays`).
"""

import contextlib
import dataclasses
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Float64, Int
from tqdm.auto import tqdm

from jaxgen.axes import MODEL
from jaxgen.data import BatchPlan, Corpus, trainable_span, windows_at
from jaxgen.errors import InputError
from jaxgen.files import replacing
from jaxgen.lm import LanguageModel, perplexity_of, span_probabilities, windows
from jaxgen.lm.mixture import FrequencyBins, learn_weights, mix
from jaxgen.lm.ngram import NgramCounts
from jaxgen.lm.nplm import NPLMConfig, is_weight
from jaxgen.parallel import (
    Layout,
    current_mesh,
    gather_fsdp,
    is_main_process,
    num_batch_shards,
    put_batch,
    replicated,
)
from jaxgen.training import (
    Checkpoints,
    LoopConfig,
    MetricsLog,
    OptimizerConfig,
    TrainState,
    compile_step,
    create_state,
    fit,
    load_params,
    make_local_steps,
    make_optimizer,
    make_train_step,
    read_records,
    scan_steps,
)
from jaxgen.training.metrics import Record
from jaxgen.training.optimizers import ScheduleName
from jaxgen.training.state import Tree
from jaxgen.training.step import Batch, LossFn, StepFn

PARTS = ("train", "validation", "test")
METRIC = "validation/perplexity"

OUTPUT_BLOCKS = 8
"""Output units are cut in so many blocks at least, whatever the mesh: a run goes on, and its
checkpoints open, wherever the size of the axis ``model`` divides it."""

EVALUATION_BATCH = 1024
_MOST_STEPS_PER_CALL = 16
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
      unigram_bias: start b at the logarithms of the training part's relative frequencies, so that
        the untrained network is a unigram model.
    """

    optimizer: OptimizerConfig
    schedule: ScheduleName
    warmup_steps: int
    batch_size: int
    epochs: float
    per_example: bool = False
    evaluations_per_epoch: int = 2
    patience: int | None = None
    unigram_bias: bool = True

    def __post_init__(self) -> None:
        if not (self.epochs > 0 and math.isfinite(self.epochs)):
            raise InputError(f"epochs is {self.epochs}, expected a number > 0")

    def optimizer_for(self, steps: int) -> OptimizerConfig:
        """The optimiser of a run of `steps` updates."""
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
        """Steps and intervals, in whole calls of `per_call` steps (None chooses)."""
        between = max(1, round(steps_per_epoch / self.evaluations_per_epoch))
        if per_call is None:
            per_call = min(_MOST_STEPS_PER_CALL, max(1, between // _CALLS_PER_EVALUATION))
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
    OptimizerConfig("adagrad", learning_rate=0.05, initial_accumulator=0.0),
    schedule="cosine",
    warmup_steps=500,
    batch_size=256,
    epochs=5,
)
"""Minibatches, Adagrad with a linear warm-up and a cosine to zero."""

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
    """

    recipe: Literal["modern", "paper"] = "modern"
    batch_size: int | None = None
    epochs: float | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    patience: int | None = None

    def chosen(self) -> Recipe:
        """The recipe with the values given."""
        recipe = RECIPES[self.recipe]
        optimizer = _replace_given(recipe.optimizer, self, ("learning_rate", "weight_decay"))
        recipe = _replace_given(recipe, self, ("batch_size", "epochs", "patience"))
        return dataclasses.replace(recipe, optimizer=optimizer)


def _replace_given(base: Any, flags: RecipeFlags, names: Iterable[str]) -> Any:
    given = {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}
    return dataclasses.replace(base, **given)


@dataclass(frozen=True, kw_only=True)
class NetworkFlags:
    """The network (Bengio et al. 2003, equation 1).

    Attributes:
      order: n; the n - 1 words before predict the next.
      features: m, numbers in the feature vector of a word.
      hidden: h, hidden units; 0 for none.
      direct: whether the word features are connected to the outputs directly.
      dropout: share of features and hidden units that are left out in training.
    """

    order: int = 5
    features: int = 30
    hidden: int = 100
    direct: bool = False
    dropout: float = 0.0

    def config(self, vocabulary_size: int, **changes: Any) -> NPLMConfig:
        """The configuration for a vocabulary, laid out for the mesh that is set."""
        options = {**dataclasses.asdict(self), **changes}
        blocks = math.lcm(OUTPUT_BLOCKS, current_mesh().shape[MODEL])
        return NPLMConfig(vocabulary_size, output_blocks=blocks, **options)


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with the parameters of its best evaluation.

    Attributes:
      config: what it is.
      params: its parameters, as they lie on the mesh.
      layout: how they do.
      records: what the run logged: ``train/loss`` and ``validation/perplexity`` by ``step``.
      steps: updates done.
      best_step: the update after which the validation perplexity was least.
      seconds: time spent training, over all restarts.
    """

    config: NPLMConfig
    params: Tree
    layout: Layout
    records: list[Record]
    steps: int
    best_step: int
    seconds: float

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """The updates at which a figure was logged, and its values."""
        points = [(record["step"], record[name]) for record in self.records if name in record]
        return [step for step, _ in points], [value for _, value in points]


def train_network(
    config: NPLMConfig,
    corpus: Corpus,
    folder: pathlib.Path,
    recipe: Recipe,
    *,
    seed: int = 0,
    local_steps: int | None = None,
    progress: bool = True,
) -> TrainedNetwork:
    """Trains a network on the corpus's training part, or goes on where `folder` has a run of it.

    Batches depend on the step alone and parameters do not depend on the mesh, so losses are the
    same on any mesh and any number of processes, to rounding.

    Args:
      config: the network.
      corpus: with the spans "train" and "validation".
      folder: the run's; ``metrics.jsonl`` and ``checkpoints/`` are written there. A checkpoint
        holds the configuration and the vocabulary (``vocabulary.txt``).
      recipe: how to train it.
      seed: of the parameters, the order of the examples, and dropout.
      local_steps: k, the updates that each data shard makes on its own before all are averaged
        (`jaxgen.training.local_steps`); None: the shards average every gradient.
      progress: whether to show a bar.

    Raises:
      InputError: the order is larger than the text, or the batch than its training part.
    """
    ready = prepare_training(config, corpus, recipe, seed=seed, local_steps=local_steps)
    score = make_scorer(config, ready.layout)

    def evaluate(state: TrainState) -> dict[str, float]:
        log_probability_N = score(state.params, corpus, corpus.spans["validation"])
        return {METRIC: float(np.exp(-log_probability_N.mean()))}

    vocabulary = "".join(f"{word}\n" for word in corpus.vocabulary.words)
    with Checkpoints(
        folder / "checkpoints",
        config=config,
        files={"vocabulary.txt": vocabulary},
        keep=1,
        metric=METRIC,
    ) as checkpoints:
        result = fit(
            ready.step,
            ready.state,
            ready.data,
            jax.random.key(seed),
            ready.loop,
            evaluate=evaluate,
            checkpoints=checkpoints,
            log=MetricsLog(folder),
            progress=progress,
        )
    records = read_records(folder / "metrics.jsonl")
    assert result.best_step is not None
    return TrainedNetwork(
        config,
        load_params(folder / "checkpoints", ready.layout.abstract, which="best"),
        ready.layout,
        records,
        steps=int(result.state.step),
        best_step=result.best_step,
        seconds=max((record["seconds"] for record in records), default=0.0),
    )


@dataclass(frozen=True)
class Training:
    """What `fit` is given: the first state with its layout, the compiled step, data, intervals."""

    state: TrainState
    layout: Layout
    step: StepFn
    data: Callable[[int], Batch]
    loop: LoopConfig


def prepare_training(
    config: NPLMConfig,
    corpus: Corpus,
    recipe: Recipe,
    *,
    seed: int = 0,
    local_steps: int | None = None,
) -> Training:
    """Everything for a run but its folder; arguments and errors as for `train_network`."""
    span = trainable_span(corpus.spans["train"], config.order, corpus.name)
    plan = BatchPlan(*span, recipe.batch_size, seed=seed)
    loop = recipe.loop_for(plan.steps_per_epoch, local_steps)
    tx = make_optimizer(recipe.optimizer_for(loop.steps), lambda path, _: is_weight(path))
    bias_V = unigram_bias(corpus) if recipe.unigram_bias else None
    state, layout = create_state(make_init(config, bias_V), jax.random.key(seed), tx=tx)
    step = make_step(make_loss(config, layout), tx, loop.steps_per_call, local_steps)

    def data(index: int) -> Batch:
        return make_batch(corpus.tokens, plan.positions(index), config.order)

    return Training(state, layout, compile_step(step, state), data, loop)


def make_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    steps_per_call: int,
    local_steps: int | None = None,
) -> StepFn:
    """What `fit` calls: a step, several in one call, or a round of local steps."""
    if local_steps is None:
        step = make_train_step(loss_fn, tx)
        return scan_steps(step) if steps_per_call > 1 else step
    round_ = make_local_steps(loss_fn, tx)

    def round_of_one(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, dict]:
        state, metrics = round_(state, jax.tree.map(lambda x: x[None], batch), key)
        return state, jax.tree.map(lambda x: x[0], metrics)

    return round_ if local_steps > 1 else round_of_one


def make_batch(tokens_N: Int[np.ndarray, "N"], positions_B: np.ndarray, order: int) -> Batch:
    """``{"contexts": int32 [B, n-1], "targets": int32 [B]}`` of positions of a text."""
    window_BL = windows_at(tokens_N, positions_B, order)
    return {"contexts": window_BL[:, :-1], "targets": window_BL[:, -1]}


def unigram_bias(corpus: Corpus) -> Float64[np.ndarray, "V"]:
    """Log relative frequencies of the words in the training part, half a count added to each."""
    count_V = np.bincount(corpus.split("train"), minlength=len(corpus.vocabulary)) + 0.5
    return np.log(count_V / count_V.sum())


def make_init(
    config: NPLMConfig, bias_V: Float[np.ndarray, "V"] | None = None
) -> Callable[[jax.Array], Tree]:
    """``key -> parameters`` with logical axes; the output bias b starts at `bias_V`, else at 0."""
    model = config.make_model()

    def init(key: jax.Array) -> Tree:
        contexts_BL = jnp.zeros((1, config.order - 1), jnp.int32)
        params = model.init(key, contexts_BL)["params"]
        if bias_V is not None:
            zero_V = params["b"].value
            padded_V = jnp.pad(jnp.asarray(bias_V, zero_V.dtype), (0, len(zero_V) - len(bias_V)))
            params["b"] = params["b"].replace_boxed(padded_V)
        return params

    return init


def make_loss(config: NPLMConfig, layout: Layout) -> LossFn:
    """The mean negative log-likelihood of a batch in nats, dropout on."""
    model = config.make_model()

    def loss_fn(params: Tree, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict]:
        loss, _ = model.apply(
            {"params": gather_fsdp(params, layout)},
            batch["contexts"],
            batch["targets"],
            rngs={"dropout": key},
            method="loss",
        )
        return loss, {}

    return loss_fn


Scorer = Callable[..., Float64[np.ndarray, "N"]]
"""``(params, corpus, (start, stop), progress=None) -> log P`` of each position, float64 [N]."""


def make_scorer(config: NPLMConfig, layout: Layout) -> Scorer:
    """A function that gives log P(w_i | context) of every position of a span, in nats.

    Evaluation runs on the mesh, on batches that are spread over it; every process gets the result.
    Every position must have a full context.
    """
    model, mesh = config.make_model(), layout.mesh
    shards = num_batch_shards(mesh)
    size = shards * math.ceil(EVALUATION_BATCH / shards)

    def log_probabilities(params: Tree, batch: Batch) -> jax.Array:
        variables = {"params": gather_fsdp(params, layout)}
        return model.apply(
            variables, batch["contexts"], batch["targets"], method="log_probabilities"
        )

    compiled = jax.jit(log_probabilities, out_shardings=replicated(mesh))

    def score(
        params: Tree,
        corpus: Corpus,
        span: tuple[int, int],
        progress: Callable[[int], None] | None = None,
    ) -> Float64[np.ndarray, "N"]:
        start, stop = span
        pieces = []
        for first in range(start, stop, size):
            # The last batch repeats the last position, so that one compiled shape does.
            position_B = np.minimum(np.arange(first, first + size), stop - 1)
            batch = put_batch(make_batch(corpus.tokens, position_B, config.order), mesh)
            pieces.append(compiled(params, batch))
            if progress is not None:
                progress(min(size, stop - first))
        log_probability_N = np.concatenate([np.asarray(piece) for piece in pieces])
        return log_probability_N[: stop - start].astype(np.float64)

    return score


def describe(corpus: Corpus) -> str:
    """One line: name, size of the vocabulary, sizes of the parts."""
    sizes = ", ".join(f"{len(corpus.split(part)):,} {part}" for part in PARTS)
    return f"{corpus.name}: {len(corpus.vocabulary):,} words; tokens: {sizes}"


def evaluated_span(corpus: Corpus, part: str, order: int) -> tuple[int, int]:
    """The positions of a part at which models of orders up to `order` are compared.

    All of them, but for the first ``order - 1`` of the whole stream, which have no full context.
    """
    return trainable_span(corpus.spans[part], order, corpus.name)


def network_probabilities(
    network: TrainedNetwork, corpus: Corpus, order: int, parts: Sequence[str] = PARTS
) -> dict[str, Float64[np.ndarray, "N"]]:
    """Part -> P(word | context) at the positions of `evaluated_span`."""
    score = make_scorer(network.config, network.layout)
    with _word_bar(corpus, order, parts, "the network") as advance:
        return {
            part: np.exp(
                score(network.params, corpus, evaluated_span(corpus, part, order), advance)
            )
            for part in parts
        }


def model_probabilities(
    model: LanguageModel,
    corpus: Corpus,
    order: int,
    parts: Sequence[str] = PARTS,
    name: str = "the model",
) -> dict[str, Float64[np.ndarray, "N"]]:
    """The same for any other language model."""
    with _word_bar(corpus, order, parts, name) as advance:
        return {
            part: span_probabilities(
                model, corpus.tokens, *evaluated_span(corpus, part, order), progress=advance
            )
            for part in parts
        }


@contextlib.contextmanager
def progress_bar(
    name: str, unit: str, total: int | None = None
) -> Iterator[Callable[[int], object]]:
    """A bar on the main process, which goes when it is done; ``advance(count)``."""
    silent = not is_main_process()
    with tqdm(desc=name, unit=unit, total=total, leave=False, disable=silent) as bar:
        yield bar.update


def _word_bar(
    corpus: Corpus, order: int, parts: Sequence[str], name: str
) -> contextlib.AbstractContextManager[Callable[[int], object]]:
    spans = [evaluated_span(corpus, part, order) for part in parts]
    return progress_bar(f"evaluating {name}", "word", sum(stop - start for start, stop in spans))


def mix_by_frequency(
    members: Sequence[Mapping[str, Float64[np.ndarray, "N"]]],
    bins: Mapping[str, Int[np.ndarray, "N"]],
    size: int,
) -> tuple[dict[str, Float64[np.ndarray, "N"]], Float64[np.ndarray, "bins J"]]:
    """Mixes models with a weight vector for each bin of context frequency.

    The weights are learnt by EM on the validation part (Bengio et al. 2003, section 4).

    Args:
        members: each model's probabilities by part, all of the same parts.
        bins: by part, the bin of each position (`frequency_bins_of`).
        size: the number of bins.

    Returns:
        The mixture's probabilities by part, and the weights.
    """
    stacked = {part: np.stack([member[part] for member in members], axis=1) for part in members[0]}
    weight_CJ = learn_weights(stacked["validation"], bins["validation"], size)
    return {part: mix(p_NJ, weight_CJ, bins[part]) for part, p_NJ in stacked.items()}, weight_CJ


def frequency_bins_of(
    counts: NgramCounts, corpus: Corpus, order: int, parts: Sequence[str] = PARTS
) -> tuple[dict[str, Int[np.ndarray, "N"]], int]:
    """By part, the bin of each position's last two words by how often the training part has them.

    Args:
        counts: trigrams of the training part.
        corpus: the text.
        order: says at which positions, as `evaluated_span` does.
        parts: of which parts.

    Returns:
        Bins by part, and their number.
    """
    bins = FrequencyBins(counts.context_frequencies, counts.tokens)
    spans = {part: evaluated_span(corpus, part, order) for part in parts}
    return {p: bins(windows(corpus.tokens, 3, *span)) for p, span in spans.items()}, bins.size


def cached_arrays(
    path: pathlib.Path, compute: Callable[[], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file; without the file, those that `compute` gives, saved in it."""
    if not path.exists():
        save_arrays(path, arrays := dict(compute()))
        return arrays
    return load_arrays(path)


def load_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file by name."""
    with np.load(path) as arrays:
        return dict(arrays)


def save_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an ``.npz`` file, whole or not at all, and its folder, on the main process."""
    if is_main_process():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as handle:
            np.savez(handle, **arrays)


def perplexities(probabilities: Mapping[str, Float64[np.ndarray, "N"]]) -> dict[str, float]:
    """Part -> perplexity, from probabilities by part."""
    return {part: perplexity_of(p_N) for part, p_N in probabilities.items()}


def format_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table with aligned columns, as readable in a terminal as on a page.

    Numbers are aligned to the right, floats given with one decimal; None is left blank.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [all(_is_number(value) for value in column) for column in zip(*cells, strict=True)]
    widths = [max(3, *map(len, column)) for column in zip(header, *cells, strict=True)]

    def line(values: Sequence[str]) -> str:
        padded = [
            value.rjust(width) if right else value.ljust(width)
            for value, width, right in zip(values, widths, numeric, strict=True)
        ]
        return "| " + " | ".join(padded) + " |"

    rule = [
        "-" * (width - 1) + ":" if right else "-" * width
        for width, right in zip(widths, numeric, strict=True)
    ]
    return "\n".join([line(header), line(rule), *map(line, cells)])


def _cell(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _is_number(cell: str) -> bool:
    return not cell or re.fullmatch(r"-?[\d,]+(\.\d+)?", cell) is not None


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file, whole or not at all, on the main process."""
    if is_main_process():
        with replacing(path) as handle:
            handle.write(text.rstrip("\n").encode() + b"\n")
