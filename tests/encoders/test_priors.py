"""unCLIP's priors: networks, codes of vectors, and how vectors are drawn."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from tiny import TEXT, P, ids
from tiny import B as COUNT

from jaxgen.encoders import (
    CodePriorConfig,
    ImagePriorConfig,
    TextToVectorConfig,
    code_prior_loss,
    draw_vectors,
    fit_vector_codes,
)
from jaxgen.errors import InputError
from jaxgen.nn.decoding import Decoding

LENGTH = 6
SIZES = {"width": 16, "depth": 2, "heads": 2, "mlp_units": 32, "pooled_width": P}
TEXTS = {"text_width": 16, "text_length": LENGTH}
CODES = CodePriorConfig(**SIZES, **TEXTS, codes=5, buckets=7, products=4)
ENCODER = dataclasses.replace(TEXT, length=LENGTH)
SYSTEM = TextToVectorConfig(CODES, ENCODER, P**0.5)
MODEL = CODES.make_model()
encode, network = jax.jit(SYSTEM.encode), jax.jit(MODEL.apply)


def image_vectors(count=200, seed=3):
    """Of length sqrt(P), more spread along some axes than along others."""
    spread = np.random.default_rng(seed).normal(size=(count, P)) * 0.7 ** np.arange(P)
    spread = spread @ np.linalg.qr(np.random.default_rng(0).normal(size=(P, P)))[0]
    return (P**0.5 * spread / np.linalg.norm(spread, axis=1, keepdims=True)).astype(np.float32)


def random_like(init, seed=2):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(init, jax.random.key(0))
    boxed = lambda leaf: hasattr(leaf, "unbox")  # noqa: E731
    shapes = jax.tree.map(lambda leaf: leaf.unbox() if boxed(leaf) else leaf, shapes, is_leaf=boxed)
    return jax.tree.map(lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def system_params():
    product_N = np.random.default_rng(0).uniform(0, 1, 200)
    codes, _ = fit_vector_codes(image_vectors(), product_N, CODES.codes, CODES.products)
    return {**random_like(SYSTEM.make_init()), "codes": codes._asdict()}


def three_keys(reverse=False):
    data = np.arange(6, dtype=np.uint32).reshape(3, 2)
    return jax.random.wrap_key_data(data[::-1] if reverse else data)


def masked_ids(count=COUNT):
    ids_BL = ids(count)
    return ids_BL, ids_BL != 0


def test_codes_are_principal_components_in_equal_buckets():
    vectors_NC, buckets = image_vectors(), 50
    product_N = np.random.default_rng(1).normal(size=200)
    codes, kept = fit_vector_codes(vectors_NC, product_N, 3, 4)
    centred = vectors_NC.astype(np.float64) - vectors_NC.mean(axis=0)
    _, size, rows = np.linalg.svd(centred, full_matrices=False)
    same = np.abs((np.asarray(codes.components_KC) * rows[:3]).sum(axis=1))
    np.testing.assert_allclose(same, 1, rtol=1e-4)
    np.testing.assert_allclose(kept, (size[:3] ** 2).sum() / (size**2).sum(), rtol=1e-5)

    encoded, decoded = (jax.jit(f, static_argnums=1) for f in (codes.encode, codes.decode))
    found = np.asarray(encoded(vectors_NC, buckets))
    assert found.min() == 0
    assert found.max() == buckets - 1
    along = np.asarray(codes.components_KC)
    again = np.asarray(decoded(found, buckets))
    error = (again - vectors_NC) @ along.T
    half = (np.asarray(codes.largest_K) - np.asarray(codes.least_K)) / buckets / 2
    assert (np.abs(error) <= half * 1.001 + 1e-5).all()
    np.testing.assert_array_equal(encoded(again, buckets), found)
    count = np.bincount(jax.jit(codes.encode_products)(product_N), minlength=4)
    np.testing.assert_array_equal(count, 50)


def test_codes_beyond_the_ends_and_too_many():
    codes, _ = fit_vector_codes(image_vectors(), np.zeros(200), 2, 2)
    far = np.asarray(codes.mean_C) + 100 * np.asarray(codes.components_KC)
    encoded = np.asarray(jax.jit(codes.encode, static_argnums=1)(far, 9))
    np.testing.assert_array_equal(np.diag(encoded), 8)
    flat = image_vectors() * np.array([1] * 3 + [0] * (P - 3), np.float32)
    with pytest.raises(InputError, match="codes are 4, expected 1 to 3, the components"):
        fit_vector_codes(flat, np.zeros(200), 4, 2)


def test_code_by_code_equals_all_at_once(system_params):
    """Logits by `step` from kept keys and values are those of the whole sequence."""
    text, variables = encode(system_params, *masked_ids(3)), {"params": system_params["prior"]}
    start = jax.jit(functools.partial(MODEL.apply, method=MODEL.start))
    step = jax.jit(functools.partial(MODEL.apply, method=MODEL.step))
    rng = np.random.default_rng(0)
    ids_BK = np.concatenate([7 + rng.integers(0, 4, (3, 1)), rng.integers(0, 7, (3, 4))], axis=1)
    whole = np.asarray(network(variables, *text, ids_BK))
    kept = start(variables, *text)
    for place in range(CODES.codes):
        logits, kept = step(variables, kept, ids_BK[:, place], place)
        np.testing.assert_allclose(logits, whole[:, place], atol=2e-5)


def test_padding_may_be_anything(system_params):
    """What lies behind a text does not matter, where it stands does."""
    states, mask, pooled = map(np.asarray, encode(system_params, *masked_ids(3)))
    variables, ids_BK = {"params": system_params["prior"]}, np.full((3, CODES.codes), 3)
    first = network(variables, states, mask, pooled, ids_BK)
    changed = np.where(mask[..., None], states, np.float32(1e3))
    np.testing.assert_array_equal(network(variables, changed, mask, pooled, ids_BK), first)
    assert not mask.all()


def test_the_loss_without_a_network_is_that_of_a_die(system_params):
    params = jax.tree.map(np.asarray, system_params)
    output = {"kernel": 0 * params["prior"]["output"]["kernel"]}
    params = {**params, "prior": {**params["prior"], "output": output}}
    ids_BL, mask_BL = masked_ids()
    batch = {"image": image_vectors(COUNT), "text_ids": ids_BL, "text_mask": mask_BL}
    loss, _ = jax.jit(code_prior_loss(SYSTEM))(params, batch, jax.random.key(0))
    np.testing.assert_allclose(loss, np.log(CODES.buckets), rtol=1e-6)


def test_vectors_are_those_of_the_codes_that_were_written(system_params):
    """The greedy ones, against the whole network asked again for each code."""
    ids_BL, mask_BL = masked_ids(3)
    keys = three_keys()
    found = np.asarray(draw_vectors(SYSTEM, system_params, ids_BL, mask_BL, keys, Decoding()))
    text = encode(system_params, ids_BL, mask_BL)
    decode = jax.jit(SYSTEM.codes(system_params).decode, static_argnums=1)
    candidates = []
    for product in (2, 3):  # the upper half of four
        row = np.zeros((3, 1 + CODES.codes), np.int32)
        row[:, 0] = CODES.buckets + product
        for k in range(CODES.codes):
            logits = network({"params": system_params["prior"]}, *text, row[:, :-1])
            row[:, 1 + k] = np.asarray(logits)[:, k].argmax(axis=-1)
        vectors = np.asarray(decode(row[:, 1:], CODES.buckets))
        candidates.append(P**0.5 * vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    nearest = np.min([np.abs(found - each).max(axis=1) for each in candidates], axis=0)
    assert nearest.max() < 1e-4
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), P**0.5, rtol=1e-5)


def test_a_vector_depends_on_its_own_key(system_params):
    ids_BL, mask_BL = masked_ids(3)
    keys, other = three_keys(), three_keys(reverse=True)
    draw = functools.partial(draw_vectors, SYSTEM, system_params)
    found = np.asarray(draw(ids_BL, mask_BL, keys))
    turned = np.asarray(draw(ids_BL[::-1], mask_BL[::-1], other))
    np.testing.assert_allclose(turned[::-1], found, atol=1e-5)
    again = np.asarray(draw(ids_BL, mask_BL, other))
    assert np.abs(again - found)[[0, 2]].max() > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_length": 5}, r"prior has text_width, text_length, pooled_width \(16, 5, 8\), exp"),
        ({"codes": 9}, "codes is 9, expected at most pooled_width=8"),
        ({"buckets": 1}, "buckets is 1, expected 2 or more"),
        ({"projection": 4}, "projection is 4, expected None"),
    ],
)
def test_sizes_that_do_not_fit(change, message):
    with pytest.raises(InputError, match=message):
        TextToVectorConfig(dataclasses.replace(CODES, **change), ENCODER, 1.0)


def test_inputs_that_do_not_fit():
    config = ImagePriorConfig(**SIZES, **TEXTS)
    model = config.make_model()
    text, vector = np.zeros((2, LENGTH, 16)), np.zeros((2, P))

    def run(z=vector, text=text, mask=None, pooled=vector):
        given = {"text_BNC": text, "text_mask_BN": mask, "pooled_BC": pooled}
        jax.eval_shape(lambda: model.init(jax.random.key(0), z, np.zeros(2), **given))

    run()
    for wrong, message in (
        ({"z": vector[:, 1:]}, r"vectors have shape \(2, 7\)"),
        ({"text": text[:, 1:]}, r"text has shape \(2, 5, 16\), expected 6 tokens"),
        ({"pooled": None}, r"pooled vectors have shape None, expected \[2, 8\]"),
        ({"mask": np.ones((2, 3))}, r"text_mask has shape \(2, 3\), expected \[2, 6\]"),
    ):
        with pytest.raises(InputError, match=message):
            run(**wrong)
