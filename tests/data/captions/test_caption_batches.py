"""Batches of captioned pictures: ids of captions, text dropout, resuming, several processes."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxgen.data import BatchPlan, captioned_batch_at, tokenise_captions
from jaxgen.data.captions.caption_batches import make_caption_transform
from jaxgen.data.captions.captioned_shapes import make_captioned_shapes
from jaxgen.data.captions.shape_vocabulary import ShapeVocabulary
from jaxgen.data.tokenizers import train_tokenizer
from jaxgen.errors import InputError
from jaxgen.pixels import to_unit

LENGTH = 12


def tokenizer(texts):
    """Words as numbers; 1 at the beginning, so that the empty text has a token."""
    ids = np.zeros((len(texts), LENGTH), np.int64)
    mask = np.zeros((len(texts), LENGTH), bool)
    for row, text in enumerate(texts):
        numbers = [1, *(2 + sum(map(ord, word)) for word in text.split())]
        ids[row, : len(numbers)], mask[row, : len(numbers)] = numbers, True
    return ids, mask


@pytest.fixture(scope="module")
def shapes():
    return make_captioned_shapes(parts={"train": 300, "test": 20}, side=16)


@pytest.fixture(scope="module")
def tokens(shapes):
    return tokenise_captions(shapes.descriptive, tokenizer)


def test_a_batch_has_pixels_and_the_ids_of_their_captions(shapes, tokens):
    plan = BatchPlan(*shapes.parts["train"], 32, seed=3)
    for step in (0, 7, 20):
        batch = captioned_batch_at(shapes, tokens, plan, step)
        positions = plan.positions(step)
        np.testing.assert_array_equal(batch["image"], to_unit(shapes.images[positions]))
        ids, mask = tokenizer([shapes.descriptive[i] for i in positions])
        np.testing.assert_array_equal(batch["text_ids"], ids)
        np.testing.assert_array_equal(batch["text_mask"], mask)
        assert batch["text_ids"].dtype == np.int32
        same = batch["caption"][:, None] == batch["caption"]
        texts = np.array([shapes.descriptive[i] for i in positions])
        np.testing.assert_array_equal(same, texts[:, None] == texts)
    assert len(tokens.ids) == len(set(shapes.descriptive)) + 1  # each once, and the null caption


def test_each_caption_is_tokenised_once(shapes):
    given = []

    def counting(texts):
        given.append(len(texts))
        return tokenizer(texts)

    expected = tokenise_captions(shapes.short, counting)
    assert given == [len(shapes.distinct("short")) + 1]
    named = tokenise_captions(
        shapes.short,
        lambda texts: SimpleNamespace(**dict(zip(("ids", "mask"), tokenizer(texts), strict=True))),
    )
    np.testing.assert_array_equal(named.ids, expected.ids)
    np.testing.assert_array_equal(named.mask, expected.mask)


def test_dropout_depends_on_seed_and_place_alone(shapes, tokens):
    plan = BatchPlan(*shapes.parts["train"], 30, seed=3)
    batches = [captioned_batch_at(shapes, tokens, plan, i, text_dropout=0.2) for i in range(200)]
    null_ids, null_mask = tokenizer([""])
    dropped = np.concatenate([batch["caption"] for batch in batches]) == tokens.null
    assert abs(dropped.mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / dropped.size)
    some = batches[0]["caption"] == tokens.null
    assert (batches[0]["text_ids"][some] == null_ids).all()
    assert (batches[0]["text_mask"][some] == null_mask).all()
    # Resumed at a step, for the rows of one process, and in batches of another size.
    again = captioned_batch_at(shapes, tokens, plan, 150, text_dropout=0.2, rows=np.arange(10, 20))
    for key, value in again.items():
        np.testing.assert_array_equal(value, batches[150][key][10:20])
    halves = BatchPlan(*shapes.parts["train"], 15, seed=3)
    for step in range(4):
        half = captioned_batch_at(shapes, tokens, halves, step, text_dropout=0.2)
        first = step % 2 * 15
        np.testing.assert_array_equal(
            half["caption"], batches[step // 2]["caption"][first : first + 15]
        )
    other = BatchPlan(*shapes.parts["train"], 30, seed=4)
    other_null = captioned_batch_at(shapes, tokens, other, 0, text_dropout=0.2)["caption"]
    assert ((other_null == tokens.null) != some).any()
    always = captioned_batch_at(shapes, tokens, plan, 0, text_dropout=1.0)
    assert (always["caption"] == tokens.null).all()


def test_records_read_one_by_one_have_the_same_dropout(shapes, tokens):
    pytest.importorskip("grain", reason="needs grain: jaxgen[data]")
    from jaxgen.data.pipeline import make_batches

    transform = make_caption_transform(tokenizer, text_dropout=0.3)
    batch = make_batches(shapes, 20, seed=5, shuffle=False, transform=transform)[3]
    assert set(batch) == {"image", "text_ids", "text_mask"}
    plan = BatchPlan(0, len(shapes), 20, seed=5, shuffle=False)
    expected = captioned_batch_at(shapes, tokens, plan, 3, text_dropout=0.3)
    for key, value in batch.items():
        np.testing.assert_array_equal(value, expected[key])
    with pytest.raises(InputError, match="a record with image, expected a text 'caption'"):
        transform({"image": 3}, np.random.default_rng())


def test_clips_have_batches_too():
    vocabulary = ShapeVocabulary().moving()
    clips = make_captioned_shapes(vocabulary, frames=3, side=16, parts={"train": 8}, share=0.01)
    tokens = tokenise_captions(clips.short, tokenizer)
    batch = captioned_batch_at(clips, tokens, BatchPlan(0, 8, 4), 1)
    assert batch["video"].shape == (4, 3, 16, 16, 3)
    assert batch["video"].dtype == np.float32


def test_what_cannot_be_batched(shapes, tokens):
    plan = BatchPlan(0, 300, 30)
    with pytest.raises(InputError, match="text_dropout is 2, expected 0 <= text_dropout <= 1"):
        captioned_batch_at(shapes, tokens, plan, 0, text_dropout=2)
    with pytest.raises(
        InputError, match="positions 0 to 300 and ids of 320 captions, of 20 images"
    ):
        captioned_batch_at(shapes.part("test"), tokens, plan, 0)
    with pytest.raises(InputError, match=r"gives ids \[3, 12\] and a mask \[3, 12\] for 2 texts"):
        tokenise_captions(["a"], lambda texts: tokenizer([*texts, ""]))
    with pytest.raises(InputError, match="1 captions without a token, first 'b', expected one or"):
        tokenise_captions(["a", "b"], lambda t: (np.ones((3, 2), int), [[1, 0], [0, 0], [0, 0]]))
    words = train_tokenizer(["a red circle"], 20)
    with pytest.raises(InputError, match="1 captions without a token, first ' ', expected one or"):
        tokenise_captions(["red", " "], words)  # start and end alone
    assert tokenise_captions(["red", " "], words, null="circle").mask.any(axis=1).all()
    with pytest.raises(InputError, match="captions are the string 'red', expected a list of texts"):
        tokenise_captions("red", words)
