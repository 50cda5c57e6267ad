"""The program for n-gram models on small texts: files in, files and figures out."""

import gzip
import re

import numpy as np
import pytest
from random_text import WORDS, sentences

from experiments.lm.ngrams import COMMANDS
from experiments.lm.support.model_files import read_language_model
from experiments.shared.launch import run_tool
from jaxgen.data import read_sentences
from jaxgen.interop.arpa import read_arpa
from jaxgen.lm import TextModel, open_model, score_text
from jaxgen.lm.network import NetworkModel
from jaxgen.lm.nplm import NPLMConfig

pytestmark = pytest.mark.filterwarnings("ignore:Kneser-Ney discounts")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Names of a training, a validation and a test text."""
    folder, lines = tmp_path_factory.mktemp("texts"), [" ".join(s) for s in sentences(700)]
    parts = {"train": lines[:500], "valid": lines[500:600], "test": lines[600:]}
    for name, part in parts.items():
        (folder / f"{name}.txt").write_text("\n".join(part) + "\n")
    (folder / "words.txt").write_text("".join(f"w{i}\n" for i in range(WORDS)) + ".\n")
    return {name: str(folder / f"{name}.txt") for name in (*parts, "words")}


@pytest.fixture
def tool(capsys):
    """``(words of the command line) -> (exit code, what was printed, what was complained of)``."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            run_tool(COMMANDS, [str(argument) for argument in arguments])
        return ended.value.code, *capsys.readouterr()

    return run


def number_after(name, text):
    return float(re.search(rf"{re.escape(name)} ([-\d.e+]+)", text)[1])


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--smoothing", "witten-bell", "--back-off"),
        ("--smoothing", "absolute", "--order", "2", "--cutoff", "1"),
        ("--smoothing", "add-k", "--k", "0.1", "--vocabulary-size", "100"),
    ],
    ids=["kneser-ney", "witten-bell", "absolute", "add-k"],
)
def test_text_to_arpa_and_text_against_arpa(tool, texts, tmp_path, flags):
    arpa = tmp_path / "model.arpa"
    code, printed, _ = tool("estimate", "--text", texts["train"], "--output", arpa, *flags)
    assert code == 0
    assert "500 sentences" in printed
    code, printed, _ = tool("score", "--model", arpa, "--text", texts["test"])
    assert code == 0
    model = TextModel.from_tables(read_arpa(arpa))
    expected = score_text(model, read_sentences(texts["test"]))
    assert number_after("ppl", printed) == pytest.approx(expected.ppl, rel=1e-5)
    assert number_after("ppl1", printed) == pytest.approx(expected.ppl1, rel=1e-5)
    assert number_after("perplexity with OOVs", printed) == pytest.approx(
        expected.perplexity, rel=1e-5
    )
    assert f"100 sentences, {len(expected.words) - 100} words" in printed
    contexts = np.full((1, model.model.order - 1), model.marks.start)
    assert model.model.distributions(contexts).sum() == pytest.approx(1, abs=1e-6)


def test_encodings_compression_and_word_lists(tool, tmp_path):
    text = "där är öl\nöl är där\ndär är vin\n" * 3
    (tmp_path / "t.gz").write_bytes(gzip.compress(text.encode("latin-1")))
    (tmp_path / "words").write_text("öl\när\n", "utf-8")
    model = tmp_path / "model.lm"
    code, printed, _ = tool(
        *("estimate", "--text", tmp_path / "t.gz", "--encoding", "latin-1", "--order", "2"),
        *("--vocabulary", tmp_path / "words", "--output", model, "--smoothing", "witten-bell"),
    )
    assert code == 0
    assert "9 sentences, 27 words, |V| = 5, 44.4% unknown" in printed
    assert open_model(model).words == ("<unk>", "<s>", "</s>", "öl", "är")
    code, printed, _ = tool(
        *("score", "--model", model, "--text", tmp_path / "t.gz", "--encoding", "latin-1"),
        *("--words", "--open-vocabulary", "100"),
    )
    assert code == 0
    assert re.search(r"^där -\d\.\d{6} 2 OOV$", printed, re.MULTILINE)
    _, _, error = tool("score", "--model", model, "--text", tmp_path / "t.gz")
    assert "not utf-8 text: byte 0xe4 at offset 1" in error


def test_mixing_pruning_and_writing(tool, texts, tmp_path):
    first, second = tmp_path / "a.arpa.gz", tmp_path / "b.lm"
    words = ("--vocabulary", texts["words"])
    tool("estimate", "--text", texts["train"], "--output", first, *words)
    back_off = ("--smoothing", "witten-bell", "--order", 2)
    tool("estimate", "--text", texts["valid"], "--output", second, *back_off, *words)
    mixed = ("mix", "--models", first, second, "--text", texts["test"], "--output")
    code, printed, _ = tool(*mixed, tmp_path / "m.lm")
    assert code == 0
    weights = [float(w) for w in re.findall(r"^(\d\.\d{6})  ", printed, re.MULTILINE)]
    assert sum(weights) == pytest.approx(1, abs=1e-5)
    perplexity = number_after("perplexity of the mixture", printed)
    members = [float(p) for p in re.findall(r"perplexity ([\d.]+|inf)$", printed, re.MULTILINE)]
    assert perplexity < min(members)
    test = read_sentences(texts["test"])
    exact = score_text(read_language_model(str(tmp_path / "m.lm")), test).perplexity
    assert exact == pytest.approx(perplexity, rel=1e-5)
    assert tool(*mixed, tmp_path / "m.arpa")[0] == 0
    static = score_text(read_language_model(str(tmp_path / "m.arpa")), test).perplexity
    assert static == pytest.approx(perplexity, rel=0.05)

    small = tmp_path / "small.arpa"
    code, printed, _ = tool(
        "prune", "--model", tmp_path / "m.arpa", "--output", small, "--threshold", "1e-4"
    )
    before, after = (
        [int(n.replace(",", "")) for n in re.findall(r"[\d,]*\d(?=,? |,|:|$)", line.split(": ")[1])]
        for line in printed.splitlines()
    )
    assert code == 0
    assert before[0] == after[0]
    assert after[2] < before[2]

    written = [
        tool("generate", "--model", small, "--count", 5, "--seed", seed, "--prompt", "w1")[1]
        for seed in (0, 0, 1)
    ]
    assert written[0] == written[1] != written[2]
    lines = written[0].splitlines()
    assert len(lines) == 5
    assert all(line.startswith("w1") and "<" not in line for line in lines)
    assert tool("generate", "--model", small, "--prompt", "nowhere")[0] == 2


def save_network(path, words, seed=0):
    """A network of order 3 with random weights, and log10 P of ids after contexts [N, 2]."""
    rng, size = np.random.default_rng(seed), len(words)
    shapes = {"C": (size, 4), "H": (8, 5), "d": (5,), "U": (5, size), "b": (size,)}
    p = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    tree = {"context": {name: p[name] for name in "CHd"}, "U": p["U"], "b": p["b"]}
    config = NPLMConfig(size, order=3, features=4, hidden=5)
    TextModel(NetworkModel(config.make_model(), tree), words).save(path)

    def log10_p(contexts, targets):
        x = p["C"][contexts[:, ::-1]].reshape(len(contexts), -1)
        y = np.tanh(x @ p["H"] + p["d"]) @ p["U"] + p["b"]
        y -= np.log(np.exp(y).sum(axis=1, keepdims=True))
        return y[np.arange(len(targets)), targets] / np.log(10)

    return log10_p


def test_networks_of_a_stream_score_and_write(tool, texts, tmp_path):
    """The equations of the paper in numpy, at every word that has two words before it."""
    words = ("w1", "<unk>", ".", *(f"w{i}" for i in range(2, 40)))
    path = tmp_path / "network.lm"
    log10_p = save_network(path, words)
    lines = read_sentences(texts["test"])
    ids = np.array([words.index(w) if w in words else 1 for line in lines for w in line])
    contexts = np.column_stack([ids[:-2], ids[1:-1]])
    expected = log10_p(contexts, ids[2:])
    score = ("score", "--model", path, "--text", texts["test"])
    code, printed, _ = tool(*score, "--words")
    assert code == 0
    assert "the text is one stream, its first 2 words context alone" in printed
    found = re.findall(r"^\S+ (-[\d.]+)(?: OOV)?$", printed, re.MULTILINE)
    np.testing.assert_allclose(np.array(found, float), expected, atol=2e-6)
    totals = [float(t) for t in re.findall(r"^(-[\d.]+) total$", printed, re.MULTILINE)]
    stops = np.cumsum([len(line) for line in lines]) - 2
    by_line = [part.sum() for part in np.split(expected, stops[:-1])]
    np.testing.assert_allclose(totals, by_line, atol=2e-5)
    perplexity = number_after("perplexity with OOVs", printed)
    assert perplexity == pytest.approx(10 ** -expected.mean(), rel=1e-5)

    other = tmp_path / "other.lm"
    also = 10 ** save_network(other, words, seed=1)(contexts, ids[2:])
    printed = tool("mix", "--models", path, other, "--text", texts["test"])[1]
    weights = [float(w) for w in re.findall(r"^(\d\.\d{6})  ", printed, re.MULTILINE)]
    mixed = weights[0] * 10**expected + weights[1] * also
    found = number_after("perplexity of the mixture", printed)
    assert found == pytest.approx(np.exp(-np.log(mixed).mean()), rel=1e-5)

    generate = ("generate", "--model", path, "--count", 2, "--length", 5, "--temperature", 0)
    with pytest.warns(UserWarning, match="the prompt has 0 of the 2 words .* <unk> stands for"):
        written = tool(*generate)[1].split("\n")[0].split()
    assert len(written) == 5
    context = [1, 1]
    for word in written:
        log10_V = log10_p(np.repeat([context], len(words), axis=0), np.arange(len(words)))
        log10_V[1] = -np.inf
        assert word == words[int(log10_V.argmax())]
        context = [context[1], words.index(word)]
    assert tool(*generate, "--prompt", "w1 .")[0] == 0

    save_network(path, words[2:])
    code, _, error = tool(*generate)
    assert (code, error.count("\n")) == (2, 1)
    assert "prompt has 0 words, expected 2 or more for a network of order 3" in error
    code, _, error = tool(*score)
    assert (code, error.count("\n")) == (2, 1)
    assert "expected words of the model, which has no <unk>" in error


def test_ngrams_mix_with_a_network_of_the_same_words(tool, texts, tmp_path):
    """Their words are in another order: the mixture is that of both models' own scores."""
    ngrams, network, mixed = (tmp_path / name for name in ("a.arpa", "network.lm", "m.lm"))
    tool("estimate", "--text", texts["train"], "--output", ngrams, "--vocabulary", texts["words"])
    words = read_language_model(str(ngrams)).words
    save_network(network, words[::-1])
    mix = ("mix", "--models", ngrams, network, "--output", mixed, "--weights")
    assert tool(*mix, 0.3, 0.7)[0] == 0
    models = [read_language_model(str(path)) for path in (ngrams, network, mixed)]
    assert models[2].words == words[::-1]
    test = read_sentences(texts["test"])
    p = [10 ** np.array([w.log10 for w in score_text(m, test).words]) for m in models]
    np.testing.assert_allclose(p[2], 0.3 * p[0] + 0.7 * p[1], rtol=1e-6)
    save_network(network, words[5:])
    code, _, error = tool(*mix, 0.3, 0.7)
    assert code == 2
    assert "expected n-gram models, or no words but those of the others" in error


@pytest.mark.slow
def test_models_with_different_words_share_one_list(tool, texts, tmp_path):
    first, second = tmp_path / "a.arpa", tmp_path / "b.arpa"
    tool("estimate", "--text", texts["train"], "--output", first, "--cutoff", "2")
    tool("estimate", "--text", texts["valid"], "--output", second, "--cutoff", "1")
    weights = ("mix", "--models", first, second, "--weights", "0.5", "0.5", "--output")
    assert tool(*weights, tmp_path / "m.arpa")[0] == 0
    mixed = read_language_model(str(tmp_path / "m.arpa"))
    members = [read_language_model(str(path)) for path in (first, second)]
    assert set(mixed.words) == {word for member in members for word in member.words}
    for word in ("w1", "w2", "</s>", "<unk>"):
        halves = [m.model.unigrams()[m.ids[word]] if word in m.ids else 0.0 for m in members]
        got = mixed.model.unigrams()[mixed.ids[word]]
        assert got == pytest.approx(sum(halves) / 2, rel=1e-6)


def test_mistakes_are_one_line(tool, texts, tmp_path):
    model = tmp_path / "m.lm"
    estimate = ("estimate", "--text", texts["train"], "--output", tmp_path / "x.arpa")
    tool("estimate", "--text", texts["train"], "--output", model, "--order", 2)
    for arguments, message in [
        (("mix", "--models", model), "text and weights are both given or both missing"),
        (("prune", "--model", model, "--output", model, "--threshold", -1), "threshold is -1"),
        ((*estimate, "--order", 0), "order is 0"),
        ((*estimate, "--smoothing", "add-k", "--back-off"), "expected no --back-off"),
        ((*estimate, "--vocabulary", model, "--cutoff", 1), "expected no cutoff"),
        (("score", "--model", "nowhere", "--text", texts["test"]), "nowhere: no such file"),
        (("score", "--model", texts["test"], "--text", texts["test"]), "no line \\data\\"),
        ((*estimate[:-1], tmp_path / "nowhere" / "x.arpa"), "there is no folder"),
        ((*estimate, "--cutoff", 100000), "cutoff is 100000, expected less: no word is more freq"),
        (("generate", "--model", model, "--count", 0), "count is 0, expected 1 or more"),
        (("scor",), "Unrecognized options: scor"),
        (("score", "--model", model), "--text missing"),
    ]:
        code, _, error = tool(*arguments)
        assert code == 2
        assert message in error
        assert error.count("\n") == 1
    mixture = ("mix", "--models", model, model, "--weights", 0.5, 0.5, "--output")
    tool(*mixture, tmp_path / "mixture.lm")
    code, _, error = tool("prune", "--model", tmp_path / "mixture.lm", "--output", model)
    assert code == 2
    assert "a Mixture, expected an n-gram model to prune" in error
    assert not (tmp_path / "x.arpa").exists()
