"""Tables and arrays that experiments write."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from experiments.shared.digests import (
    corpus_digest,
    digest_of,
    images_digest,
    params_digest,
    tree_digest,
)
from experiments.shared.launch import ExperimentConfig, LaunchConfig
from experiments.shared.output import (
    cached_arrays,
    cached_figures,
    format_table,
    known_arrays,
    known_figures,
    load_arrays,
    write_text,
)
from jaxgen.data import ImageSet
from jaxgen.data.text.corpus import TokenStream, make_corpus
from jaxgen.parallel import make_mesh


def corpus(text):
    """A text of which each part is one word at least."""
    spans = {"train": (0, 3), "validation": (3, 4), "test": (4, 5)}
    return make_corpus(TokenStream("text", text.split(), spans=spans), rare_frequency=0)


def test_tables_align_numbers_to_the_right():
    rows = [("MLP1", 12.345, 5, True, "0.80"), ("trigram", 1234.0, None, False, "1,234")]
    assert format_table(("model", "test", "n", "direct", "ratio"), rows).splitlines() == [
        "| model   |   test |   n | direct | ratio |",
        "| ------- | -----: | --: | ------ | ----: |",
        "| MLP1    |   12.3 |   5 | yes    |  0.80 |",
        "| trigram | 1234.0 |     | no     | 1,234 |",
    ]


def test_arrays_are_computed_once(tmp_path):
    path = tmp_path / "rows" / "a.npz"
    calls = []

    def compute():
        calls.append(1)
        return {"test": np.arange(3.0) / 7, "bins": np.array([1, 2])}

    first, second = (cached_arrays(path, compute, made_of=("a text", 3)) for _ in range(2))
    assert len(calls) == 1
    assert list(first) == list(second) == ["test", "bins"]
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
        assert first[name].dtype == load_arrays(path)[name].dtype
    assert [p.name for p in path.parent.iterdir()] == ["a.npz"]


def test_a_fault_while_computing_leaves_no_file(tmp_path):
    with pytest.raises(ZeroDivisionError):
        cached_arrays(tmp_path / "a.npz", lambda: {"x": np.array(1 // 0)}, made_of=())
    assert not any(tmp_path.iterdir())


def damaged(content):
    """A file cut, emptied, with a flipped bit, and others in its place."""
    flipped = bytearray(content)
    flipped[len(content) * 2 // 3] ^= 1
    yield from (content[:-7], content[: len(content) // 2], b"", bytes(flipped), b"[1]", b"{}")


def test_arrays_of_other_things_or_damaged_ones_are_computed_again(tmp_path):
    path = tmp_path / "a.npz"
    digest = corpus_digest(corpus("a b c a b"))
    for text in ("a b c a b", "a b c b a", "a b c a b"):
        made_of = (corpus_digest(corpus(text)), 3)
        assert (made_of[0] == digest) == (text == "a b c a b")
        found = cached_arrays(path, lambda text=text: {"x": np.array([text])}, made_of=made_of)
        assert found["x"] == [text]
    content = path.read_bytes()
    for wrong in damaged(content):
        path.write_bytes(wrong)
        found = cached_arrays(path, lambda: {"x": np.array(["a b c a b"])}, made_of=made_of)
        assert found["x"] == ["a b c a b"]
        assert known_arrays(path, made_of) is not None
    np.savez(path, x=np.arange(3))  # another program's
    assert known_arrays(path, made_of) is None


def test_figures_of_other_things_or_damaged_ones_are_computed_again(tmp_path):
    path = tmp_path / "run" / "a.json"
    figures = {"test": {"perplexity": np.float32(2.5), "worst": math.inf}, "diverged": "at 3"}
    read = {"test": {"perplexity": 2.5, "worst": math.inf}, "diverged": "at 3"}
    assert cached_figures(path, lambda: figures, made_of=1) == figures
    assert cached_figures(path, lambda: pytest.fail("again"), made_of=1) == read
    for wrong in damaged(path.read_bytes()):
        path.write_bytes(wrong)
        assert known_figures(path, 1) is None
    edited = {**read, "test": 3, "made of": digest_of(1)}
    path.write_text(json.dumps(edited))
    assert cached_figures(path, lambda: {"test": 4}, made_of=1) == {"test": 4}
    assert cached_figures(path, lambda: {"test": 5}, made_of=2) == {"test": 5}
    assert cached_figures(path, lambda: {"test": 6}, made_of=1) == {"test": 6}


def test_digests_tell_apart_what_differs():
    one = np.arange(6)
    different = [
        *(1, 1.0, True, "1", None, (), (1,), ((1,),), {"a": 1}, {"b": 1}),
        *(("ab", "c"), ("a", "bc"), one, one.reshape(2, 3), one.astype(np.int32), one[::-1]),
        *(LaunchConfig(), LaunchConfig(mesh="data=2"), ExperimentConfig()),
    ]
    digests = [digest_of(value) for value in different]
    assert len({*digests}) == len(different)
    assert digests == [digest_of(value) for value in different]
    assert digest_of(one) == digest_of(np.arange(12)[::2] // 2)
    with pytest.raises(TypeError, match="no digest of a object"):
        digest_of(object())


def test_digests_of_data_depend_on_all_of_it():
    images = ImageSet(
        *("dots", np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1)),
        *(np.array([0, 1, 0], np.int32), ("a", "b"), {"train": (0, 2), "test": (2, 3)}),
    )
    changes = [
        {"images": images.images[::-1]},
        {"labels": images.labels[[1, 0, 2]]},
        {"classes": ("b", "a")},
        {"parts": {"train": (0, 3)}},
    ]
    digests = {images_digest(dataclasses.replace(images, **change)) for change in changes}
    assert len(digests | {images_digest(images)}) == 5
    assert images_digest(dataclasses.replace(images, name="spots")) == images_digest(images)
    params = {"a": {"w": jnp.arange(8.0)}, "b": jnp.ones(2)}
    mesh = make_mesh("fsdp=8")
    sharded = jax.device_put(params["a"]["w"], NamedSharding(mesh, PartitionSpec("fsdp")))
    with jax.set_mesh(mesh):
        assert params_digest({**params, "a": {"w": sharded}}) == tree_digest(params)
    assert tree_digest({**params, "b": jnp.zeros(2)}) != tree_digest(params)


def test_texts_end_with_one_line_break(tmp_path):
    write_text(tmp_path / "a.txt", "één\n\n")
    assert (tmp_path / "a.txt").read_bytes() == "één\n".encode()
