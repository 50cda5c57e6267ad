"""Captions and texts written with kept keys and values, against the whole network."""

import functools

import jax
import numpy as np
import pytest
from tiny import COCA_CONFIG, LANGUAGE_CONFIG, B, V, clips, ids, images, params_of

from jaxgen.encoders import causal_text_loss, make_captioner, make_text_writer
from jaxgen.errors import InputError
from jaxgen.nn.decoding import Decoding
from jaxgen.nn.written_texts import Marks, Prompt
from jaxgen.parallel import make_mesh, plan_layout, put_batch

START, MARKS, LENGTH = 1, Marks(end=V - 1, pad=0), 6


def stepwise(config, params, start, ids_BL):
    """Logits behind each token, one token at a time."""
    model = config.make_model()

    @jax.jit
    def run(params, kept, ids_BL):
        def step(kept, given):
            place, ids_B = given
            logits, kept = model.apply({"params": params}, kept, ids_B, place, method=model.step)
            return kept, logits

        places = np.arange(ids_BL.shape[1])
        return jax.lax.scan(step, kept, (places, ids_BL.T))[1].swapaxes(0, 1)

    kept = jax.jit(
        lambda p, *x: model.apply({"params": p}, *x, ids_BL.shape[1] + 1, method="start")
    )
    return run(params, kept(params, *start) if start else kept_of_text(config, ids_BL), ids_BL)


def kept_of_text(config, ids_BL):
    model = config.make_model()
    start = functools.partial(model.start, len(ids_BL), ids_BL.shape[1] + 1)
    return model.apply({}, method=lambda _: start())


@pytest.mark.parametrize("given", ["image", "clip", "text"])
def test_kept_keys_give_the_logits_of_the_whole_network(given):
    ids_BL = ids()
    if given == "text":
        config = LANGUAGE_CONFIG
        network, start = config.make_model(), ()
        whole = jax.jit(network.apply)({"params": params_of(config)}, ids_BL)
    else:
        config, start = COCA_CONFIG, (images() if given == "image" else clips(),)
        network = config.make_model()
        whole = jax.jit(functools.partial(network.apply, method=network.caption_logits))(
            {"params": params_of(config)}, *start, ids_BL
        )
    found = stepwise(config, params_of(config), start, ids_BL)
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-5)


def test_a_language_model_sees_no_later_token():
    network, params, ids_BL = LANGUAGE_CONFIG.make_model(), params_of(LANGUAGE_CONFIG), ids()
    run = jax.jit(network.apply)
    before = np.asarray(run({"params": params}, ids_BL))
    changed = ids_BL.copy()
    changed[:, 3] = (changed[:, 3] + 1) % V
    after = np.asarray(run({"params": params}, changed))
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert np.abs(after - before)[:, 3:].max() > 1e-3


def test_greedy_captions_are_those_of_the_whole_network():
    params = params_of(COCA_CONFIG)
    found = make_captioner(COCA_CONFIG, params, MARKS, START, LENGTH)(images())
    model = COCA_CONFIG.make_model()
    logits_of = jax.jit(functools.partial(model.apply, method=model.caption_logits))
    ids_BL = np.full((B, LENGTH), START, np.int32)
    ended = np.zeros(B, bool)
    for place in range(LENGTH - 1):
        logits = np.asarray(logits_of({"params": params}, images(), ids_BL))[:, place]
        ids_BL[:, place + 1] = np.where(ended, 0, logits.argmax(axis=-1))
        ended |= ids_BL[:, place + 1] == MARKS.end
    np.testing.assert_array_equal(found.ids_BL, ids_BL)
    assert len(set(map(tuple, ids_BL))) > 2


def test_beams_are_at_least_as_likely_and_samples_differ():
    params = params_of(COCA_CONFIG)
    greedy = make_captioner(COCA_CONFIG, params, MARKS, START, LENGTH)(images())
    how = Decoding("beam", beams=6, length_power=0.0)
    beams = make_captioner(COCA_CONFIG, params, MARKS, START, LENGTH, how)(images())
    assert np.all(np.asarray(beams.log_p_B) > np.asarray(greedy.log_p_B) - 1e-5)
    draw = make_captioner(COCA_CONFIG, params, MARKS, START, LENGTH, Decoding("nucleus"))
    key_B = jax.random.split(jax.random.key(0), B)
    first, second = draw(images(), key_B), draw(images(), key_B[::-1])
    assert np.any(np.asarray(first.ids_BL) != np.asarray(second.ids_BL))


def test_over_devices_the_captions_are_the_same():
    """Images over `data`, heads and the table of words over `model`."""
    params, mesh = params_of(COCA_CONFIG), make_mesh("data=4,model=2")
    how = Decoding("beam", beams=3)
    expected = make_captioner(COCA_CONFIG, params, MARKS, START, LENGTH, how)(images())
    with jax.set_mesh(mesh):
        layout = plan_layout(COCA_CONFIG.make_init(), jax.random.key(0), mesh=mesh)
        params = jax.device_put(params, layout.shardings)
        found = make_captioner(COCA_CONFIG, params, MARKS, START, LENGTH, how)(
            put_batch(images(), mesh)
        )
    np.testing.assert_array_equal(found.ids_BL, expected.ids_BL)
    np.testing.assert_allclose(found.log_p_B, expected.log_p_B, rtol=1e-4, atol=1e-5)


def test_a_text_is_continued_behind_prompts_of_any_length():
    write = make_text_writer(LANGUAGE_CONFIG, params_of(LANGUAGE_CONFIG), MARKS)
    ids_BL = ids()
    found = write(Prompt(ids_BL, np.arange(ids_BL.shape[1]) < 1 + np.arange(B)[:, None] % 4))
    for b in range(B):
        count = 1 + b % 4
        np.testing.assert_array_equal(found.ids_BL[b, :count], ids_BL[b, :count])
    more = Prompt(np.asarray(found.ids_BL), np.arange(ids_BL.shape[1]) < np.full((B, 1), 3))
    longer = write(more)
    same = np.arange(B) % 4 < 3
    same &= ~np.any(more.ids_BL[:, 1:3] == MARKS.end, axis=1)  # which a prompt does not end at
    np.testing.assert_array_equal(longer.ids_BL[same], found.ids_BL[same])
    assert same.sum() > 3


def test_only_counted_tokens_are_learned():
    loss_fn = jax.jit(causal_text_loss(LANGUAGE_CONFIG))
    ids_BL, params = ids(), params_of(LANGUAGE_CONFIG)
    counted = np.broadcast_to(np.arange(ids_BL.shape[1]) == 3, ids_BL.shape)
    loss, _ = loss_fn(params, {"ids": ids_BL, "counted": counted}, None)
    later = ids_BL.copy()
    later[:, 4:] = 7
    same, _ = loss_fn(params, {"ids": later, "counted": counted}, None)
    np.testing.assert_allclose(same, loss, rtol=1e-6)
    logits = jax.jit(LANGUAGE_CONFIG.make_model().apply)({"params": params}, ids_BL)
    log_p = np.asarray(jax.nn.log_softmax(logits))[np.arange(B), 2, ids_BL[:, 3]]
    np.testing.assert_allclose(loss, -log_p.mean(), rtol=1e-5)


def test_images_of_another_size_are_refused():
    with pytest.raises(InputError, match=r"images have shape \(2, 9, 8, 3\), expected \[B, 8, 8"):
        make_captioner(COCA_CONFIG, {}, MARKS, START)(np.zeros((2, 9, 8, 3), np.uint8))


@pytest.mark.parametrize(
    ("marks", "start", "length", "message"),
    [
        (MARKS, START, 9, "length is 9, expected 2 to 8, for which the text decoder has positions"),
        (MARKS, START, 1, "length is 1, expected 2 to 8"),
        (MARKS, V, LENGTH, "start_id is 20, expected 0 to 19, the ids of the model"),
        (Marks(end=99), START, LENGTH, "end is 99, expected 0 to 19"),
        (Marks(end=1, pad=-1), START, LENGTH, "pad is -1, expected 0 to 19"),
    ],
)
def test_lengths_and_tokens_that_were_not_learned_are_refused(marks, start, length, message):
    with pytest.raises(InputError, match=message):
        make_captioner(COCA_CONFIG, {}, marks, start, length)


def test_a_writer_refuses_tokens_that_are_not_in_the_vocabulary():
    with pytest.raises(InputError, match="end is 20, expected 0 to 19"):
        make_text_writer(LANGUAGE_CONFIG, {}, Marks(end=V))
