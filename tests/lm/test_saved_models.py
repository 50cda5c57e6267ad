"""Language models in files: opened, they give the same bits."""

import io
import json
import zipfile

import jax
import numpy as np
import pytest
from ngram_references import random_text, some_contexts

from jaxgen.errors import InputError
from jaxgen.lm import SentenceMarks, SentenceModel, TextModel, open_model, score
from jaxgen.lm.mixture import FrequencyBins, Mixture, fit_mixture, fixed_mixture
from jaxgen.lm.network import NetworkModel
from jaxgen.lm.ngram import (
    count_ngrams,
    fit_add_k,
    fit_class_model,
    fit_interpolated,
    fit_witten_bell,
)
from jaxgen.lm.nplm import NPLMConfig
from jaxgen.lm.outputs.short_list import ShortListConfig, ShortListModel
from jaxgen.lm.outputs.tree_softmax import TreeCode, TreeNPLMConfig
from jaxgen.lm.outputs.word_tree import feature_tree

SIZE, ORDER = 12, 3
TOKENS = random_text(0, 400, SIZE)
WORDS = ("<s>", "</s>", "<unk>", "é", " ", "line\nbreak", *(f"w{i}" for i in range(SIZE - 6)))
COUNTS = count_ngrams(TOKENS[:300], ORDER, SIZE)


def network(config):
    contexts = np.zeros((1, ORDER - 1), np.int32)
    module = config.make_model()
    params = module.init(jax.random.key(0), contexts)["params"]
    return NetworkModel(module, jax.tree.map(lambda x: x.unbox(), params, is_leaf=is_box), 64)


def is_box(x):
    return hasattr(x, "unbox")


def make_models():
    small = dict(order=ORDER, features=4, hidden=5)
    nplm = network(NPLMConfig(SIZE, direct=True, **small))
    back_off = fit_witten_bell(COUNTS)
    bins = FrequencyBins(COUNTS.context_frequencies, COUNTS.tokens)
    tree = feature_tree(np.random.default_rng(0).normal(size=(SIZE, 3)))
    classes = np.arange(SIZE) % 4
    return {
        "back-off": back_off,
        "add-k": fit_add_k(COUNTS, 0.5),
        "interpolated": fit_interpolated(COUNTS, TOKENS, 300, 400),
        "classes": fit_class_model(TOKENS, classes, 2, interpolated=True),
        "network": nplm,
        "tree": network(TreeNPLMConfig(SIZE, tree=TreeCode.of(tree), **small)),
        "short list": ShortListModel(
            network(ShortListConfig(SIZE, short_list=5, **small)), back_off
        ),
        "sentences": SentenceModel(nplm, SentenceMarks(0, 1)),
        "mixture": fixed_mixture([back_off, nplm], [0.25, 0.75]),
        "mixture by frequency": fit_mixture([back_off, nplm], TOKENS, 300, 400, bins),
    }


@pytest.fixture(scope="module")
def models():
    with pytest.warns(UserWarning, match="Kneser-Ney discounts"):
        return make_models()


def test_every_model_gives_the_same_bits_after_opening(models, tmp_path):
    contexts = some_contexts(1, TOKENS, ORDER, SIZE)
    contexts = contexts[(contexts >= 0).all(axis=1)]
    targets = np.arange(len(contexts)) % SIZE
    for name, model in models.items():
        path = tmp_path / f"{name}.lm"
        TextModel(model, WORDS).save(path)
        opened = open_model(path)
        assert opened.words == WORDS
        assert (opened.model.order, type(opened.model)) == (model.order, type(model))
        for method, arguments in [
            ("probabilities", (contexts, targets)),
            ("distributions", (contexts,)),
        ]:
            before = getattr(model, method)(*arguments)
            after = getattr(opened.model, method)(*arguments)
            assert before.tobytes() == after.tobytes(), (name, method)
        sentence = "w0 é nowhere w3"
        assert score(opened, sentence) == score(TextModel(model, WORDS), sentence)
        opened.save(tmp_path / "again")  # nothing is lost, nothing added
        assert (tmp_path / "again").read_bytes() == path.read_bytes(), name


def test_a_file_has_no_pickle(models, tmp_path):
    TextModel(models["mixture"], WORDS).save(tmp_path / "m")
    with zipfile.ZipFile(tmp_path / "m") as archive:
        assert json.loads(archive.read("model.json"))["format"] == 1
        for name in archive.namelist():
            if name.endswith(".npy"):
                np.load(io.BytesIO(archive.read(name)), allow_pickle=False)


def test_what_has_no_saved_form_writes_nothing(models, tmp_path):
    bins = FrequencyBins(lambda contexts: np.zeros(len(contexts), np.int64), 1)
    mixture = Mixture((models["back-off"],), np.ones((bins.size, 1)), bins)
    with pytest.raises(InputError, match="without a saved form"):
        TextModel(mixture, WORDS).save(tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_damaged_and_foreign_files(models, tmp_path):
    path = tmp_path / "m"
    TextModel(models["back-off"], WORDS).save(path)
    whole = path.read_bytes()
    for end in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match="no saved language model, or a damaged one"):
            open_model(path)
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 1
    path.write_bytes(broken)
    with pytest.raises(InputError, match="damaged"):
        open_model(path)
    for change, message in [
        ({"format": 2}, "its format is 2, expected at most 1"),
        ({"model": {"class": "later", "fields": {}}}, "a part 'later' that is unknown"),
        ({"model": {"class": "network", "fields": {}}}, "damaged"),
    ]:
        with zipfile.ZipFile(path, "w") as archive:
            description = {"format": 1, "words": [], "model": None, **change}
            archive.writestr("model.json", json.dumps(description))
        with pytest.raises(InputError, match=message):
            open_model(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_model(tmp_path / "nowhere")
