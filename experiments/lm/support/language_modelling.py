"""What the language-model experiments share: training a network, probabilities, mixtures.

Everything works on a `jaxgen.data.Corpus` and, for networks, on the mesh that is set.
"""

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Float64, Int

from experiments.lm.support.recipes import METRIC, Recipe
from experiments.shared.output import progress_bar
from experiments.shared.training_runs import (
    kept_checkpoints,
    loop_options,
    multiply_adds_of_step,
)
from jaxgen.data import BatchPlan, Corpus, trainable_span, windows_at
from jaxgen.lm import (
    LanguageModel,
    SentenceMarks,
    SentenceModel,
    perplexity_of,
    span_probabilities,
    windows,
    within_sentences,
)
from jaxgen.lm.initial_features import init_from_vectors
from jaxgen.lm.mixture import FrequencyBins, learn_weights, mix
from jaxgen.lm.network import NetworkModel
from jaxgen.lm.ngram import NgramCounts
from jaxgen.lm.nplm import NPLMConfig, is_weight
from jaxgen.lm.outputs.short_list import ShortListConfig
from jaxgen.parallel import (
    Layout,
    check_batch_size,
    current_mesh,
    gather_fsdp,
    is_main_process,
    num_batch_shards,
    put_batch,
    replicated,
)
from jaxgen.text_rules import SENTENCE_END, SENTENCE_START
from jaxgen.training import (
    Checkpoints,
    LoopConfig,
    MetricsLog,
    Padding,
    TrainState,
    compile_step,
    create_state,
    fit,
    load_params,
    make_local_steps,
    make_optimizer,
    make_schedule,
    make_train_step,
    read_records,
    scan_steps,
    state_axes,
)
from jaxgen.training.metrics import Record
from jaxgen.training.step import LossFn, StepFn
from jaxgen.typing import Batch, Tree

WordVectors = tuple[Sequence[str], Float[np.ndarray, "N D"]]
"""Words and their vectors, as `jaxgen.interop.word_vectors.read_word_vectors` gives them."""

PARTS = ("train", "validation", "test")
VOCABULARY = "vocabulary.txt"
EVALUATION_BATCH = 1024

MAY_DIFFER = ("output_blocks",)
"""Fields of a network's configuration that may have changed when its training resumes."""


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with the parameters of its best evaluation.

    Attributes:
      config: what it is.
      params: its parameters, with their sharding.
      records: what the run logged: ``train/loss`` and ``validation/perplexity`` by ``step``.
      steps: updates done.
      best_step: the update after which the validation perplexity was least.
      seconds: time spent training, over all restarts.
    """

    config: NPLMConfig
    params: Tree
    records: list[Record]
    steps: int
    best_step: int
    seconds: float

    @property
    def model(self) -> NetworkModel:
        """The network as a language model."""
        return NetworkModel(self.config.make_model(), self.params, EVALUATION_BATCH)

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """The updates at which a figure was logged, and its values."""
        return curve_of(name, self.records)


def curve_of(name: str, records: Sequence[Record]) -> tuple[list[int], list[float]]:
    """The updates at which a figure was logged, and its values."""
    points = [(record["step"], record[name]) for record in records if name in record]
    return [step for step, _ in points], [value for _, value in points]


def train_network(
    config: NPLMConfig,
    corpus: Corpus,
    folder: pathlib.Path,
    recipe: Recipe,
    *,
    seed: int = 0,
    local_steps: int | None = None,
    vectors: WordVectors | None = None,
    tensorboard: bool = False,
    progress: bool = True,
) -> TrainedNetwork:
    """Trains a network on the corpus's training part, or resumes where `folder` has a run of it.

    Batches depend on the step alone and parameters do not depend on the mesh, so losses are the
    same on any mesh and any number of processes, to rounding.

    Args:
      config: the network.
      corpus: with the spans "train" and "validation".
      folder: the run's; ``metrics.jsonl``, ``vocabulary.txt`` (a word a line, in the order of the
        ids) and ``checkpoints/`` are written there. A checkpoint holds the configuration and the
        vocabulary too.
      recipe: how to train it.
      seed: of the parameters, the order of the examples, and dropout.
      local_steps: k, the updates that each data shard makes on its own before all are averaged
        (`jaxgen.training.local_steps`); None: the shards average every gradient.
      vectors: words and vectors that the word features start from; None: at random.
      tensorboard: whether to write event files too.
      progress: whether to show a bar.

    Raises:
      InputError: as `plan_text_batches`; and where `folder` has another run's checkpoints.
    """
    ready = prepare_training(
        config, corpus, recipe, seed=seed, local_steps=local_steps, vectors=vectors
    )
    score = make_scorer(config, ready.layout)

    def evaluate(state: TrainState) -> dict[str, float]:
        log_p_N = score(state.params, corpus, corpus.spans["validation"])
        return {METRIC: float(np.exp(-log_p_N.mean()))}

    # A run resumes, and its best parameters open, where the axis `model` has another size.
    true_sizes = {"vocab": config.outputs}
    with open_checkpoints(folder, config, corpus) as checkpoints:
        if is_main_process():
            corpus.vocabulary.save(folder / VOCABULARY)
        result = fit(
            ready.step,
            ready.state,
            ready.data,
            jax.random.key(seed),
            ready.loop,
            evaluate=evaluate,
            checkpoints=checkpoints,
            log=MetricsLog(folder, tensorboard),
            progress=progress,
            padding=Padding(state_axes(ready.layout, ready.tx), true_sizes),
            multiply_adds=multiply_adds_of_step(ready.step, ready.state, ready.data, ready.loop),
            **loop_options(folder),
        )
    records = read_records(folder / "metrics.jsonl")
    assert result.best_step is not None
    return TrainedNetwork(
        config,
        load_params(
            folder / "checkpoints",
            ready.layout.abstract,
            which="best",
            padding=Padding(ready.layout.axes, true_sizes),
        ),
        records,
        steps=int(result.state.step),
        best_step=result.best_step,
        seconds=max((record.get("seconds", 0.0) for record in records), default=0.0),
    )


def open_checkpoints(folder: pathlib.Path, config: NPLMConfig, corpus: Corpus) -> Checkpoints:
    """The checkpoints of a run, which hold its configuration and its vocabulary."""
    return Checkpoints(
        folder / "checkpoints",
        config=config,
        may_differ=MAY_DIFFER,
        files={VOCABULARY: corpus.vocabulary.text},
        **kept_checkpoints(),
        metric=METRIC,
    )


@dataclass(frozen=True)
class Training:
    """What `fit` is given, with the layout of the state and the optimizer that the step has."""

    state: TrainState
    layout: Layout
    tx: optax.GradientTransformation
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
    vectors: WordVectors | None = None,
) -> Training:
    """Everything for a run but its folder; arguments and errors as for `train_network`."""
    plan = plan_text_batches(config.order, corpus, recipe, seed)
    loop = recipe.loop_for(plan.steps_per_epoch, local_steps)
    optimizer = recipe.optimizer_for(loop.steps)
    tx = make_optimizer(optimizer, lambda path, _: is_weight(path))
    schedule = make_schedule(optimizer)
    bias_O = output_bias(config, corpus) if recipe.unigram_bias else None
    init = make_nplm_init(config, bias_O)
    if vectors is not None:
        init = starting_from(init, corpus.vocabulary.words, vectors)
    state, layout = create_state(init, jax.random.key(seed), tx=tx)
    step = make_step(
        make_nplm_loss(config, layout),
        tx,
        loop.steps_per_call,
        local_steps,
        schedule,
        recipe.accumulate,
    )
    marks = marks_of(corpus)

    def data(index: int) -> Batch:
        return make_batch(corpus.tokens, plan.positions(index), config.order, marks)

    return Training(state, layout, tx, compile_step(step, state), data, loop)


def plan_text_batches(order: int, corpus: Corpus, recipe: Recipe, seed: int = 0) -> BatchPlan:
    """Which positions of the training part each update sees.

    Raises:
      InputError: the order is larger than the text, the batch than its training part, or the
        current mesh cannot share the batch equally.
    """
    span = trainable_span(corpus.spans["train"], order, corpus.name)
    plan = BatchPlan(*span, recipe.batch_size, seed=seed, name=corpus.name)
    check_batch_size(recipe.batch_size, current_mesh())
    if recipe.accumulate > 1:
        check_batch_size(recipe.microbatch_size, current_mesh(), "batch_size / accumulate")
    return plan


def check_text_batches(order: int, corpus: Corpus, recipe: Recipe) -> None:
    """Refuses, before anything is written, what `plan_text_batches` would refuse."""
    plan_text_batches(order, corpus, recipe)


def make_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    steps_per_call: int,
    local_steps: int | None = None,
    learning_rate: Callable[[jax.Array], jax.Array] | None = None,
    accumulate: int = 1,
) -> StepFn:
    """What `fit` calls: a step, several in one call, or a round of local steps."""
    if local_steps is None:
        step = make_train_step(loss_fn, tx, accumulate=accumulate, learning_rate=learning_rate)
        return scan_steps(step) if steps_per_call > 1 else step
    round_ = make_local_steps(loss_fn, tx)

    def round_of_one(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, dict]:
        state, metrics = round_(state, jax.tree.map(lambda x: x[None], batch), key)
        return state, jax.tree.map(lambda x: x[0], metrics)

    return round_ if local_steps > 1 else round_of_one


def make_batch(
    tokens_N: Int[np.ndarray, "N"],
    positions_B: np.ndarray,
    order: int,
    marks: SentenceMarks | None = None,
) -> Batch:
    """``{"contexts": int32 [B, n-1], "targets": int32 [B]}`` of positions of a text."""
    window_BL = windows_at(tokens_N, positions_B, order)
    return {"contexts": own_contexts(window_BL[:, :-1], marks), "targets": window_BL[:, -1]}


def marks_of(corpus: Corpus) -> SentenceMarks | None:
    """The marks of a text that is trained on by sentence (`load_sentences`), None for a stream."""
    vocabulary = corpus.vocabulary
    if SENTENCE_START not in vocabulary or SENTENCE_END not in vocabulary:
        return None
    start, end = vocabulary.encode([SENTENCE_START, SENTENCE_END]).tolist()
    return None if np.any(corpus.tokens == start) else SentenceMarks(start, end)


def own_contexts(
    contexts_NL: Int[np.ndarray, "N L"], marks: SentenceMarks | None
) -> Int[np.ndarray, "N L"]:
    """Contexts of a text's stream, those of a text of sentences cut to their own sentence."""
    return contexts_NL if marks is None else within_sentences(contexts_NL, marks)


def unigram_bias(corpus: Corpus) -> Float64[np.ndarray, "V"]:
    """Log relative frequencies of the words in the training part, half a count added to each."""
    count_V = np.bincount(corpus.split("train"), minlength=len(corpus.vocabulary)) + 0.5
    return np.log(count_V / count_V.sum())


def output_bias(config: NPLMConfig, corpus: Corpus) -> Float64[np.ndarray, "O"]:
    """What the biases b start at: those of a short list's words, and of all the others together."""
    log_p_V = unigram_bias(corpus)
    if not isinstance(config, ShortListConfig):
        return log_p_V
    listed, others = np.split(log_p_V, [config.short_list])
    return np.append(listed, np.log(np.exp(others).sum()))


def make_nplm_init(
    config: NPLMConfig, bias_O: Float[np.ndarray, "O"] | None = None
) -> Callable[[jax.Array], Tree]:
    """``key -> parameters`` with logical axes; the output bias b starts at `bias_O`, else at 0."""
    model = config.make_model()

    def init(key: jax.Array) -> Tree:
        contexts_BL = jnp.zeros((1, config.order - 1), jnp.int32)
        params = model.init(key, contexts_BL)["params"]
        if bias_O is not None:
            zero_O = params["b"].value
            padded_O = jnp.pad(jnp.asarray(bias_O, zero_O.dtype), (0, len(zero_O) - len(bias_O)))
            params["b"] = params["b"].replace_boxed(padded_O)
        return params

    return init


def starting_from(
    init: Callable[[jax.Array], Tree], words: Sequence[str], vectors: WordVectors
) -> Callable[[jax.Array], Tree]:
    """``key -> parameters`` whose word features are given vectors where words have one."""
    return lambda key: init_from_vectors(init(key), words, *vectors)


def make_nplm_loss(config: NPLMConfig, layout: Layout) -> LossFn:
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


Scorer = Callable[[Tree, Corpus, tuple[int, int]], Float64[np.ndarray, "N"]]


def make_scorer(config: Any, layout: Layout) -> Scorer:
    """``score(params, corpus, (start, stop)) -> log P`` of every position in nats, float64 [N].

    (`NetworkModel` gives the same for parameters that stay; this is compiled once for all.)
    Batches are spread over the mesh, and every process gets the result. Each position must have a
    full context.

    Args:
      config: any network's (`jaxgen.lm.network`).
      layout: of its parameters.
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

    def score(params: Tree, corpus: Corpus, span: tuple[int, int]) -> Float64[np.ndarray, "N"]:
        start, stop = span
        marks, parts = marks_of(corpus), []
        for first in range(start, stop, size):
            # The last batch repeats the last position, so that there is one shape to compile.
            position_B = np.minimum(np.arange(first, first + size), stop - 1)
            batch = make_batch(corpus.tokens, position_B, config.order, marks)
            parts.append(compiled(params, put_batch(batch, mesh)))
        return np.concatenate(parts)[: stop - start].astype(np.float64)

    return score


def evaluated_span(corpus: Corpus, part: str, order: int) -> tuple[int, int]:
    """The positions of a part at which models of orders up to `order` are compared.

    All of them, but for the first ``order - 1`` of the whole stream, which have no full context.
    """
    return trainable_span(corpus.spans[part], order, corpus.name)


def model_probabilities(
    model: LanguageModel,
    corpus: Corpus,
    order: int,
    parts: Sequence[str] = PARTS,
    name: str = "the model",
) -> dict[str, Float64[np.ndarray, "N"]]:
    """Part -> P(word | context) at the positions of `evaluated_span`."""
    marks = marks_of(corpus)
    model = model if marks is None else SentenceModel(model, marks)
    spans = {part: evaluated_span(corpus, part, order) for part in parts}
    total = sum(stop - start for start, stop in spans.values())
    with progress_bar(f"evaluating {name}", "word", total) as advance:
        return {
            part: span_probabilities(
                model, corpus.tokens, *span, EVALUATION_BATCH, progress=advance
            )
            for part, span in spans.items()
        }


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
    marks = marks_of(corpus)
    contexts = {p: own_contexts(windows(corpus.tokens, 3, *spans[p]), marks) for p in parts}
    return {part: bins(contexts_NL) for part, contexts_NL in contexts.items()}, bins.size


def perplexities(probabilities: Mapping[str, Float64[np.ndarray, "N"]]) -> dict[str, float]:
    """Part -> perplexity, from probabilities by part."""
    return {part: perplexity_of(p_N) for part, p_N in probabilities.items()}
