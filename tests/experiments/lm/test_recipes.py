"""Recipes, and training with them."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from random_text import sentences

from experiments.lm.support.language_modelling import (
    make_batch,
    make_scorer,
    mix_by_frequency,
    model_probabilities,
    output_bias,
    plan_text_batches,
    prepare_training,
    train_network,
    unigram_bias,
)
from experiments.lm.support.recipes import MODERN, PAPER, RecipeFlags, WordNetworkFlags
from experiments.shared import training_runs
from jaxgen.data import TokenStream, make_corpus
from jaxgen.errors import InputError
from jaxgen.lm import perplexity_of
from jaxgen.lm.network import NetworkModel
from jaxgen.lm.nplm import NPLMConfig
from jaxgen.lm.outputs.short_list import ShortListConfig
from jaxgen.parallel import make_mesh, put_batch
from jaxgen.training import speed


@pytest.fixture(scope="module")
def corpus():
    words = [word for sentence in sentences(250) for word in sentence]
    return make_corpus(TokenStream("sentences", words))


@pytest.fixture
def one_device():
    with jax.set_mesh(make_mesh("data=1", jax.devices()[:1])):
        yield


def small(corpus, **options):
    return NPLMConfig(len(corpus.vocabulary), **{"order": 3, "features": 5, "hidden": 7, **options})


def test_steps_and_intervals_are_whole_calls():
    loop = dataclasses.replace(MODERN, epochs=4).loop_for(3125)
    assert loop.steps_per_call == 16
    assert loop.steps == 12_496  # 4 epochs are 12,500
    assert loop.evaluate_every == 1568  # half an epoch is 1,562.5
    assert loop.log_every % 16 == 0
    assert loop.metric == "validation/perplexity"
    rounds = dataclasses.replace(MODERN, epochs=5).loop_for(100, per_call=64)
    assert (rounds.steps, rounds.evaluate_every) == (512, 64)
    shortest = dataclasses.replace(MODERN, epochs=0.01).loop_for(3)
    assert (shortest.steps, shortest.steps_per_call, shortest.evaluate_every) == (1, 1, 2)


def test_warm_up_is_a_tenth_of_a_short_run():
    assert MODERN.optimizer_for(12_500).warmup_steps == 500
    assert MODERN.optimizer_for(12_500).total_steps == 12_500
    assert MODERN.optimizer_for(200).warmup_steps == 20


def test_flags_override_the_recipe():
    flags = RecipeFlags(recipe="paper", batch_size=8, learning_rate=0.5, weight_decay=0.0)
    recipe = flags.chosen()
    assert (recipe.batch_size, recipe.epochs, recipe.patience) == (8, PAPER.epochs, PAPER.patience)
    assert recipe.optimizer.learning_rate == 0.5
    assert recipe.optimizer.weight_decay == 0.0
    assert RecipeFlags().chosen() == MODERN
    with pytest.raises(InputError, match="epochs is 0"):
        RecipeFlags(epochs=0).chosen()
    with pytest.raises(InputError, match="patience is 0"):
        RecipeFlags(patience=0).chosen()


def test_the_papers_update_is_the_sum_over_the_batch(corpus, one_device):
    """theta - e (sum of gradients of log P + B lambda theta), e = 1e-3 for each example."""
    config, batch_size = small(corpus, direct=True), 4
    recipe = dataclasses.replace(PAPER, batch_size=batch_size, epochs=1)
    ready = prepare_training(config, corpus, recipe, seed=3)
    before = jax.device_get(ready.state.params)
    batch = ready.data(0)
    model = config.make_model()

    def log_p(params):
        return model.apply({"params": params}, *batch.values(), method="log_probabilities").sum()

    gradients = jax.jit(jax.grad(log_p))(before)
    if ready.loop.steps_per_call > 1:
        batch = {name: x[None] for name, x in batch.items()}
    state, _ = ready.step(ready.state, batch, jax.random.key(0))

    def expected(path, theta, gradient):
        decays = path[-1].key in ("C", "H", "U", "W")
        decayed = 1 - 1e-3 * batch_size * 1e-4 * decays
        return theta * decayed + 1e-3 * np.asarray(gradient)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-7),
        jax.device_get(state.params),
        jax.tree_util.tree_map_with_path(expected, before, gradients),
    )


def test_microbatches_give_the_update_of_the_whole_batch(corpus, one_device):
    recipe = dataclasses.replace(MODERN, batch_size=32, epochs=0.2)
    found = []
    for accumulate in (1, 2):
        flags = dataclasses.replace(recipe, accumulate=accumulate)
        ready = prepare_training(small(corpus), corpus, flags, seed=1)
        batch, several = ready.data(0), ready.loop.steps_per_call > 1
        batch = {name: x[None] for name, x in batch.items()} if several else batch
        state, metrics = ready.step(ready.state, batch, jax.random.key(0))
        found.append(jax.device_get((state.params, metrics["loss"])))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), *found)
    assert RecipeFlags(accumulate=4).chosen().microbatch_size == 64
    with pytest.raises(InputError, match="accumulate is 3, expected a divisor of the batch of 256"):
        RecipeFlags(accumulate=3).chosen()
    with (
        jax.set_mesh(make_mesh("data=8")),
        pytest.raises(InputError, match="batch_size / accumulate is 4, expected a multiple of 8"),
    ):
        plan_text_batches(3, corpus, RecipeFlags(batch_size=32, accumulate=8).chosen())


def test_records_hold_the_share_of_the_peak(corpus, one_device, tmp_path, monkeypatch):
    """B (3 ((n - 1) m h + h V) + V) multiply-adds an update: forward, gradients of inputs and of
    weights, and that of b, a product too."""
    for module in (speed, training_runs):
        monkeypatch.setattr(module, "peak_of", lambda kind: 1e9)
    recipe = dataclasses.replace(MODERN, batch_size=32, epochs=1, evaluations_per_epoch=4)
    trained = train_network(small(corpus), corpus, tmp_path, recipe, progress=False)
    _, shares = trained.curve("speed/share_of_peak")
    _, rates = trained.curve("speed/steps_per_second")
    words = len(corpus.vocabulary)
    count = 32 * (3 * (2 * 5 * 7 + 7 * words) + words)
    expected = 2 * count * np.array(rates) / (1e9 * jax.device_count())
    assert len(shares) > 1
    np.testing.assert_allclose(shares, expected, rtol=1e-6)


def test_b_starts_at_the_unigram_model(corpus, one_device):
    bias_V = unigram_bias(corpus)
    assert np.exp(bias_V).sum() == pytest.approx(1)
    count_V = np.bincount(corpus.split("train"), minlength=len(corpus.vocabulary))
    ratio = (count_V[0] + 0.5) / (count_V[5] + 0.5)
    assert bias_V[0] - bias_V[5] == pytest.approx(math.log(ratio))
    ready = prepare_training(small(corpus, output_blocks=8), corpus, MODERN)
    b_V = np.asarray(ready.state.params["b"])
    np.testing.assert_allclose(b_V[: len(bias_V)], bias_V, rtol=1e-6)
    assert not b_V[len(bias_V) :].any()


def test_elsewhere_starts_at_the_frequency_of_the_words_outside_a_short_list(corpus):
    p_V = np.exp(unigram_bias(corpus))
    config = ShortListConfig(len(corpus.vocabulary), features=4, hidden=4, short_list=5)
    p_O = np.exp(output_bias(config, corpus))
    np.testing.assert_allclose(p_O, [*p_V[:5], p_V[5:].sum()], rtol=1e-12)


def test_batches_are_the_words_before_and_the_word(corpus):
    batch = make_batch(corpus.tokens, np.array([7, 2]), order=3)
    t = corpus.tokens
    np.testing.assert_array_equal(batch["contexts"], [[t[5], t[6]], [t[0], t[1]]])
    np.testing.assert_array_equal(batch["targets"], [t[7], t[2]])


def test_scores_are_log_probabilities_on_any_mesh(corpus):
    config, span = small(corpus), corpus.spans["test"]
    by_mesh = []
    for mesh in ("data=1", "data=4,model=2"):
        devices = jax.devices()[:1] if mesh == "data=1" else None
        with jax.set_mesh(make_mesh(mesh, devices)):
            laid_out = dataclasses.replace(config, output_blocks=2)
            ready = prepare_training(laid_out, corpus, MODERN)
            score = make_scorer(laid_out, ready.layout)
            by_mesh.append(score(ready.state.params, corpus, span))
            model = NetworkModel(laid_out.make_model(), ready.state.params)
            same = model_probabilities(model, corpus, 3, ("test",))["test"]
            np.testing.assert_allclose(np.exp(by_mesh[-1]), same, rtol=1e-5)
    assert by_mesh[0].shape == (span[1] - span[0],)
    np.testing.assert_allclose(*by_mesh, rtol=1e-5)


def test_batches_that_a_mesh_cannot_share_are_refused(corpus):
    with jax.set_mesh(make_mesh("data=8")):
        with pytest.raises(InputError, match="batch_size is 1, expected a multiple of 8"):
            plan_text_batches(3, corpus, PAPER)
        assert plan_text_batches(3, corpus, MODERN).batch_size == 256


def test_local_steps_of_one_are_synchronous_for_plain_gradients(corpus):
    """Averaging parameters after every step of plain gradient descent averages gradients."""
    recipe = dataclasses.replace(PAPER, batch_size=32, epochs=0.2)
    results = []
    with jax.set_mesh(mesh := make_mesh("data=4", jax.devices()[:4])):
        for local_steps in (1, None):
            ready = prepare_training(small(corpus), corpus, recipe, local_steps=local_steps)
            state, several = ready.state, ready.loop.steps_per_call > 1
            for index in range(3):
                batch = ready.data(index)
                if several:
                    batch = {name: x[None] for name, x in batch.items()}
                batch = put_batch(batch, mesh, leading=int(several))
                state, _ = ready.step(state, batch, jax.random.key(0))
            results.append(jax.device_get(state.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), *results)


def test_a_run_goes_on_where_the_mesh_has_another_shape(corpus, tmp_path):
    """V = 160 or so does not divide by 3: the output units are padded on one of the meshes."""
    recipe = dataclasses.replace(MODERN, batch_size=48, epochs=1)
    flags = WordNetworkFlags(order=3, features=4, hidden=4)
    found = []
    for folder, meshes in (("a", ("data=1", "data=1")), ("b", ("data=2,model=3", "data=1"))):
        for epochs, mesh in zip((1, 2), meshes, strict=True):
            devices = jax.devices()[: 1 if mesh == "data=1" else 6]
            with jax.set_mesh(make_mesh(mesh, devices)):
                trained = train_network(
                    flags.config(len(corpus.vocabulary)),
                    corpus,
                    tmp_path / folder,
                    dataclasses.replace(recipe, epochs=epochs, schedule="constant", warmup_steps=0),
                    progress=False,
                )
        found.append(trained.curve("validation/perplexity"))
    assert len(corpus.vocabulary) % 3
    assert found[0][0] == found[1][0]
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-5)


def test_mixtures_learn_weights_on_the_validation_part():
    """Two models that are right in different bins: the weights find out which."""
    right, wrong = np.full(50, 0.5), np.full(50, 0.01)
    first = {part: np.concatenate([right, wrong]) for part in ("validation", "test")}
    second = {part: np.concatenate([wrong, right]) for part in ("validation", "test")}
    bins = {part: np.repeat([0, 2], 50) for part in first}
    mixed, weight_CJ = mix_by_frequency([first, second], bins, 3)
    np.testing.assert_allclose(weight_CJ[[0, 2]], [[1, 0], [0, 1]], atol=1e-6)
    assert perplexity_of(mixed["test"]) == pytest.approx(2, rel=1e-5)
