"""Plans of packs: little padding, nothing lost, the same whenever asked for; packs as arrays."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from jaxgen.data.packing import PackedExample, PackPlan, pack_arrays, unpack
from jaxgen.errors import InputError
from jaxgen.nn.positions import grid_places
from jaxgen.spacetime import VideoDiTConfig


def mixed_lengths(count: int) -> np.ndarray:
    """Tokens of images and clips: half images, sides of 8 to 32 tokens, clips of 2 to 9 frames."""
    generator = np.random.default_rng(0)
    frames = np.where(generator.random(count) < 0.5, 1, generator.integers(2, 10, count))
    return generator.integers(8, 33, (count, 2)).prod(axis=1) * frames


LENGTHS = mixed_lengths(10_000)


def plan(**options) -> PackPlan:
    length = options.pop("pack_length", 2 * int(LENGTHS.max()))
    return PackPlan(lambda i: LENGTHS[i], length, options.pop("max_examples", 256), **options)


def padding_of(packs: list[list[int]], length: int) -> float:
    used = [int(LENGTHS[pack].sum()) for pack in packs]
    assert max(used) <= length
    return 1 - sum(used) / (len(packs) * length)


def test_padding_is_under_half_a_percent_and_no_example_is_lost():
    """10,000 mixed examples, the tail included; 0.11 % is the least of whole sequences."""
    length = 2 * int(LENGTHS.max())
    found = {}
    for most_open, window in ((1, 1), (8, 1), (8, 256), (32, 256)):
        packs = list(plan(max_open=most_open, window=window, total=len(LENGTHS)))
        assert sorted(i for pack in packs for i in pack) == list(range(len(LENGTHS)))
        found[most_open, window] = padding_of(packs, length)
    assert found[1, 1] > 0.05
    assert found[8, 1] < 0.0026
    assert found[8, 256] < 0.0026
    assert found[32, 256] < 0.0012


def test_a_bound_on_examples_costs_padding_and_no_example():
    length = 2 * int(LENGTHS.max())
    packs = list(plan(max_examples=8, total=len(LENGTHS)))
    assert sorted(i for pack in packs for i in pack) == list(range(len(LENGTHS)))
    assert max(map(len, packs)) == 8
    assert padding_of(packs, length) > 0.1


def test_a_pack_is_the_same_whenever_it_is_asked_for():
    packs = list(plan(total=len(LENGTHS)))
    late = plan()
    assert late.pack(250) == packs[250]  # a run that resumes
    assert late.pack(3) == packs[3]
    assert late.pack(299) == packs[299]


def test_windows_do_not_depend_on_how_far_is_read():
    """Windows of 300 of a stream without end: those of the whole stream sorted at once."""
    packs = list(plan(window=300, total=len(LENGTHS)))
    late = plan(window=300)
    assert late.pack(250) == packs[250]
    assert late.pack(3) == packs[3]
    assert {i // 300 for i in packs[0]} == {0}


def test_texts_limit_packs_too():
    texts = np.arange(len(LENGTHS)) % 5
    packs = list(
        plan(text_lengths=lambda i: texts[i], text_length=20, total=len(LENGTHS), max_open=32)
    )
    assert sorted(i for pack in packs for i in pack) == list(range(len(LENGTHS)))
    assert max(int(texts[pack].sum()) for pack in packs) == 20


def test_a_stream_without_end_is_planned_on_and_forgotten_behind():
    endless = PackPlan(lambda i: 1 + i % 7, 8, 8)
    some = {i: endless.pack(i) for i in (0, 6_000, 6_001, 11_000)}
    assert len(endless._packs) < 8_000
    assert {i: endless.pack(i) for i in reversed(some)} == some
    with pytest.raises(InputError, match="the stream has no end, expected total"):
        len(endless)


@pytest.mark.parametrize(
    ("length", "message"),
    [(9, "example 0 has 9 tokens, expected 1 to 8, the length of a pack"), (0, "has 0 tokens")],
)
def test_examples_that_fit_no_pack_are_refused(length, message):
    with pytest.raises(InputError, match=message):
        PackPlan(lambda i: np.full(len(i), length), 8, 4).pack(0)
    with pytest.raises(InputError, match=r"example 0 \(clip 0\) has"):
        PackPlan(lambda i: np.full(len(i), length), 8, 4, name_of=lambda i: f"clip {i}").pack(0)


def test_options_and_packs_that_cannot_be():
    for options, message in (
        ({"pack_length": 0}, "pack_length is 0, expected 1 or more"),
        ({"max_examples": 0}, "max_examples is 0"),
        ({"max_open": 0}, "max_open is 0"),
        ({"window": 0}, "window is 0, expected 1 example or more"),
    ):
        with pytest.raises(InputError, match=message):
            plan(**options)
    with pytest.raises(InputError, match=r"pack is -1, expected 0 to"):
        plan(total=100).pack(-1)
    with pytest.raises(InputError, match="expected 0 to"):
        plan(total=100).pack(10_000)


def example(index: int, length: int, label: int | None = None) -> PackedExample:
    tokens = np.full((length, 2), index, np.uint8)
    return PackedExample(index, tokens, np.arange(3 * length).reshape(length, 3), label)


def test_arrays_of_packs():
    batch = pack_arrays([[example(5, 2, 1), example(6, 1, 0)], [example(7, 3, 2)]], 4, 2)
    np.testing.assert_array_equal(batch["segment"], [[1, 1, 2, 0], [1, 1, 1, 0]])
    np.testing.assert_array_equal(batch["tokens"][..., 0], [[5, 5, 6, 0], [7, 7, 7, 0]])
    np.testing.assert_array_equal(batch["index"], [[5, 6], [7, 0]])
    np.testing.assert_array_equal(batch["label"], [[1, 0], [2, 0]])
    np.testing.assert_array_equal(batch["place"][0, 2], [0, 1, 2])
    assert batch["tokens"].dtype == np.uint8
    assert "label" not in pack_arrays([[example(0, 1)]], 4, 2)


def test_packs_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="pack 0 has 1 examples of 5 tokens, expected at most 2"):
        pack_arrays([[example(0, 5)]], 4, 2)
    with pytest.raises(InputError, match="pack 0 has 3 examples"):
        pack_arrays([[example(i, 1) for i in range(3)]], 4, 2)
    with pytest.raises(InputError, match="example 1 differs from others in having a label"):
        pack_arrays([[example(0, 1), example(1, 1, 0)]], 4, 2)
    with pytest.raises(InputError, match="packs are empty"):
        pack_arrays([[]], 4, 2)


def rich(index: int, length: int, text: int, fps: float = 24.0) -> PackedExample:
    """An example with a text, numbers and a channel of its own."""
    return PackedExample(
        index,
        np.full((length, 2), index, np.float32),
        np.zeros((length, 3), int),
        text=np.full((text, 4), index, np.float16),
        of_example={"numbers": np.array([fps, np.nan], np.float32), "size": np.int32(length)},
        of_tokens={"known": np.arange(length) == 0, "depth": np.full((length, 1), 0.5)},
    )


def test_arrays_of_what_else_examples_have():
    packs = [[rich(3, 2, 0), rich(4, 2, 3, 12.0)], [rich(5, 4, 1)]]
    batch = pack_arrays(packs, 5, 3, text_length=4)
    assert batch["text"].shape == (2, 4, 4)
    assert batch["text"].dtype == np.float16
    np.testing.assert_array_equal(batch["text_segment"], [[2, 2, 2, 0], [1, 0, 0, 0]])
    np.testing.assert_array_equal(batch["text"][..., 0], [[4, 4, 4, 0], [5, 0, 0, 0]])
    np.testing.assert_array_equal(batch["numbers"][..., 0], [[24, 12, 0], [24, 0, 0]])
    assert np.isnan(batch["numbers"][0, :2, 1]).all()  # not known
    np.testing.assert_array_equal(batch["size"], [[2, 2, 0], [4, 0, 0]])
    np.testing.assert_array_equal(batch["known"], [[1, 0, 1, 0, 0], [1, 0, 0, 0, 0]])
    assert batch["known"].dtype == bool
    assert batch["depth"].shape == (2, 5, 1)


def test_examples_without_any_text_give_the_same_shapes():
    batch = pack_arrays([[rich(0, 2, 0)]], 4, 2, text_length=3)
    assert batch["text"].shape == (1, 3, 4)
    assert not batch["text_segment"].any()
    ids = PackedExample(0, np.zeros((1, 1)), np.zeros((1, 3), int), text=np.array([7, 8]))
    assert pack_arrays([[ids]], 1, 1, text_length=3)["text"].tolist() == [[7, 8, 0]]


def test_the_arrays_are_what_a_network_of_packs_takes():
    def made(index: int, grid: tuple[int, int, int], text: int) -> PackedExample:
        places = grid_places(grid)
        own = {"numbers": np.zeros(2, np.float32), "spacing": np.ones(3, np.float32)}
        tokens, words = np.zeros((len(places), 16), np.float32), np.ones((text, 8), np.float32)
        return PackedExample(index, tokens, places, 1, text=words, of_example=own)

    packs = [[made(0, (1, 2, 2), 0), made(1, (2, 2, 3), 4)], [made(2, (1, 4, 4), 2)]]
    batch = pack_arrays(packs, 20, 3, text_length=6)
    options = {"in_channels": 4, "out_channels": 4, "width": 32, "depth": 1, "heads": 2}
    config = VideoDiTConfig(**options, num_classes=3, numbers=("fps", "motion"), text_width=8)
    model = config.make_model()
    positional = (batch[name] for name in ("tokens", "place", "segment"))
    prediction, _ = jax.eval_shape(
        functools.partial(model.init_with_output, method="packed"),
        jax.random.key(0),
        *positional,
        np.zeros(batch["index"].shape, np.float32),
        batch["label"],
        numbers_BEP=batch["numbers"],
        text_BNC=batch["text"],
        text_segment_BN=batch["text_segment"],
        spacing_BE3=batch["spacing"],
    )
    assert prediction.shape == (2, 20, 16)


def test_an_index_is_modulo_two_to_the_31():
    late = dataclasses.replace(example(0, 1), index=2**31 + 5)
    assert pack_arrays([[late]], 1, 1)["index"].tolist() == [[5]]


def test_unpacking_gives_back_what_was_packed():
    generator = np.random.default_rng(0)
    examples = [
        PackedExample(i, generator.normal(size=(n, 3)), np.zeros((n, 3), int))
        for i, n in enumerate((3, 1, 4, 5, 2))
    ]
    packs = [examples[:3], examples[3:], []]
    batch = pack_arrays(packs, 9, 4)
    found = unpack(batch["tokens"], batch["segment"])
    assert [len(row) for row in found] == [3, 2, 0]
    for row, pack in zip(found, packs, strict=True):
        for values, packed in zip(row, pack, strict=True):
            np.testing.assert_array_equal(values, packed.tokens)
    with pytest.raises(InputError, match=r"values have shape \(3, 8, 3\) and segments \(3, 9\)"):
        unpack(batch["tokens"][:, 1:], batch["segment"])


def test_what_examples_have_is_checked():
    def without(**fields) -> PackedExample:
        return dataclasses.replace(rich(1, 2, 1), **fields)

    for other, message in (
        (without(text=None), "example 1 differs from others in having 'text'"),
        (without(of_example={}), "example 1 differs from others in having '(numbers|size)'"),
        (without(text=np.zeros((1, 5), np.float16)), r"text of example 1 has shape \(1, 5\)"),
        (without(tokens=np.zeros((2, 2))), r"tokens of example 1 .* of float64, expected that of"),
        (without(places=np.zeros((3, 3), int)), "place of example 1 has 3 rows, expected 2, one"),
        (without(of_tokens={"label": np.zeros(2)}), "an array named 'label', expected another"),
    ):
        with pytest.raises(InputError, match=message):
            pack_arrays([[rich(0, 2, 1), other]], 8, 4, text_length=9)
    with pytest.raises(InputError, match="pack 0 has texts of 4 tokens, expected at most 3"):
        pack_arrays([[rich(0, 1, 2), rich(1, 1, 2)]], 8, 4, text_length=3)
    with pytest.raises(InputError, match="text_length is None, expected a length"):
        pack_arrays([[rich(0, 1, 2)]], 8, 4)
