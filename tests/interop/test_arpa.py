import gzip
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.interop.arpa import NgramTables, read_arpa, write_arpa
from jaxgen.lm import perplexity
from jaxgen.lm.ngram import BackoffModel, count_ngrams, fit_kneser_ney

# As SRILM's ngram-count writes it: text before \data\, <s> with -99, tabs, no back-off weight where
# an n-gram is no context, no <unk>.
SRILM = """
made by hand

\\data\\
ngram 1=4
ngram 2=3
ngram 3=1

\\1-grams:
-0.60206\t</s>
-99\t<s>\t-0.30103
-0.5228787\ta\t-0.1760913
-0.4\tb

\\2-grams:
-0.1\t<s> a\t-0.2
-0.2218487\ta b\t0.05
-0.7\ta </s>

\\3-grams:
-0.05\t<s> a b

\\end\\
and after
"""

# As KenLM's lmplz writes it: <unk> first, <s> with 0, back-off weights everywhere below the top.
KENLM = """\\data\\
ngram 1=5
ngram 2=2

\\1-grams:
-1.0\t<unk>\t0
0\t<s>\t-0.30103
-0.8\t</s>\t0
-0.5\tb\t-0.1
-0.25\ta\t-0.2

\\2-grams:
-0.3\t<s> a
-0.6\ta b

\\end\\
"""


@pytest.fixture
def saved(tmp_path):
    def save(text, name="model.arpa"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return save


def make_model(tables):
    return BackoffModel.from_tables(
        tables.ngrams, tables.log10_probabilities, tables.log10_backoffs, len(tables.words)
    )


def log10_of(model, words, context, word):
    padding = [-1] * (model.order - 1 - len(context))
    contexts = np.array([padding + [words.index(w) for w in context]])
    return np.log10(model.probabilities(contexts, np.array([words.index(word)]))[0])


def test_a_file_as_srilm_writes_it(saved):
    tables = read_arpa(saved(SRILM))
    assert tables.words == ("</s>", "<s>", "a", "b")
    assert [len(rows) for rows in tables.ngrams] == [4, 3, 1]
    np.testing.assert_array_equal(tables.ngrams[2], [[1, 2, 3]])
    np.testing.assert_allclose(tables.log10_backoffs[0], [0, -0.30103, -0.1760913, 0])
    np.testing.assert_allclose(tables.log10_backoffs[1], [-0.2, 0.05, 0])
    np.testing.assert_array_equal(tables.log10_backoffs[2], [0])
    model, words = make_model(tables), tables.words
    for context, word, expected in [
        ((), "a", -0.5228787),
        (("<s>", "a"), "b", -0.05),
        (("<s>", "a"), "</s>", -0.2 - 0.7),
        (("<s>", "a"), "a", -0.2 - 0.1760913 - 0.5228787),
        (("b", "a"), "b", -0.2218487),
        (("a", "b"), "a", 0.05 - 0.5228787),
        (("b", "b"), "b", -0.4),
    ]:
        assert log10_of(model, words, context, word) == pytest.approx(expected, abs=1e-12)
    assert model.distributions(np.array([[-1, -1]]))[0, 1] == 0.0  # <s> is never predicted


def test_a_file_as_kenlm_writes_it(saved):
    tables = read_arpa(saved(KENLM))
    assert tables.words == ("<unk>", "<s>", "</s>", "b", "a")
    # KenLM answers as the file says, also for <s>, which its own programs never ask for.
    np.testing.assert_array_equal(tables.log10_probabilities[0], [-1, 0, -0.8, -0.5, -0.25])
    model = make_model(tables)
    assert log10_of(model, tables.words, ("<s>",), "<s>") == pytest.approx(-0.30103, abs=1e-12)
    without = make_model(tables.onto(["<unk>", "</s>", "b", "a"]))
    assert without.unigrams().sum() == pytest.approx(1.1, abs=0.05)
    assert log10_of(model, tables.words, ("a",), "b") == pytest.approx(-0.6, abs=1e-12)
    assert log10_of(model, tables.words, ("a",), "a") == pytest.approx(-0.45, abs=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\t", " "),
        lambda text: text.replace("\t", "  \t "),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("ngram 1=4", "ngram 1 =  4 "),
        lambda text: text.replace("-0.7\t", "\n\n-0.7\t"),
        lambda text: text.replace("\n\\2-grams:\n", "\\2-grams:\n\n"),
        lambda text: text.split("made by hand\n\n")[1],
        lambda text: text.replace("-0.4\tb", "-0.4\tb\t0"),
        lambda text: text.replace("-99", "-inf"),
        lambda text: gzip.compress(text.encode()),
        lambda text: text.replace("\n", "\r"),
        lambda text: "\ufeff" + text,
        lambda text: "\ufeff" + text[text.index("\\data\\") :],
        lambda text: text.replace("<s> a b", "<s> a b\t0"),
        lambda text: text.replace("<s> a b", "<s> a b -0.0 "),
        lambda text: text.replace("\t", "  "),
    ],
    ids=[
        *("spaces", "both", "crlf", "header", "blanks", "unblank", "first", "zero", "inf", "gzip"),
        *("cr", "mark", "mark first", "top zero", "top minus zero", "double spaces"),
    ],
)
def test_spelling_makes_no_difference(saved, change):
    plain, changed = read_arpa(saved(SRILM)), read_arpa(saved(change(SRILM), "changed"))
    assert changed.words == plain.words
    for name in ("ngrams", "log10_probabilities", "log10_backoffs"):
        for a, b in zip(getattr(plain, name), getattr(changed, name), strict=True):
            np.testing.assert_array_equal(a, b)


def test_words_may_hold_any_character_but_ascii_space(saved):
    text = "\\data\\\nngram 1=3\n\n\\1-grams:\n-1 a\u00a0b\n-1 \\\n-1 \u3000é\n\\end\\\n"
    assert read_arpa(saved(text)).words == ("a\u00a0b", "\\", "\u3000é")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\data\\", "data", r"no line \\data\\, expected an n-gram model in ARPA format"),
        ("ngram 1=4", "ngram 1=x", r"line 5: 'ngram 1=x', expected 'ngram 1=' and a count"),
        ("ngram 2=3", "ngram 3=3", r"line 6: 'ngram 3=3', expected 'ngram 2=' and a count"),
        ("ngram 1=4\nngram 2=3\nngram 3=1\n", "", r"line 4: no line 'ngram 1=' follows"),
        ("\\2-grams:", "\\3-grams:", r"line 15: '\\\\3-grams:', expected '\\\\2-grams:'"),
        ("ngram 1=4", "ngram 1=5", r"line 15: 4 1-grams end here, expected 5 as the header"),
        ("ngram 2=3", "ngram 2=2", r"line 20: 3 2-grams end here, expected 2 as the header"),
        ("\\end\\\nand after\n", "", r"line 23: the file ends within the 3-grams, after 1 of 1"),
        ("-0.4\tb", "x\tb", r"line 13: 'x b', expected a number first"),
        ("-0.2\n", "y\n", r"line 16: '-0.1 <s> a y', expected a number last"),
        ("-0.4\tb", "0.5\tb", r"line 13: '0.5 b', expected the logarithm of a probability"),
        ("-0.4\tb", "nan\tb", r"line 13: 'nan b', expected the logarithm of a probability"),
        ("0.05\n", "inf\n", r"line 17: '-0.2218487 a b inf', expected the logarithm of a back"),
        ("-0.7\ta </s>", "-0.7\ta c", r"line 18: '-0.7 a c', expected 'c' among the 1-grams"),
        ("-0.7\ta </s>", "-0.7\tc a", r"line 18: '-0.7 c a', expected 'c' among the 1-grams"),
        ("-0.7\ta </s>", "-0.7\ta -0.1", r"line 18: '-0.7 a -0.1', expected '-0.1' among the 1"),
        ("<s> a b", "b a b", r"line 21: '-0.05 b a b', expected 'b a' among the 2-grams"),
        ("-0.7\ta </s>", "-0.7\ta b", r"line 18: '-0.7 a b', expected each 2-gram once"),
        ("-0.4\tb", "-0.4\ta", r"line 13: '-0.4 a', expected each 1-gram once"),
        ("-0.7\ta </s>", "-0.7\ta", r"line 18: '-0.7 a', expected a logarithm, 2 word\(s\) and"),
        ("<s> a b", "<s> a b 0 0", r"line 21: '-0.05 <s> a b 0 0', .* 3 word\(s\): 2 too many$"),
        ("-0.4\tb", "-0.4\tb\t0\t0\t0", r"line 13: .* a back-off weight: 2 too many$"),
        ("-0.7\ta </s>", "-0.7\ta", r"line 18: '-0.7 a', .* a back-off weight: 2 fields$"),
        (
            "<s> a b",
            "<s> a b 0.5",
            r"line 21: .* no back-off weight but 0 at the last order: '0.5'",
        ),
        ("<s> a b", "<s> a b x", r"line 21: .* no back-off weight but 0 at the last order: 'x'"),
        ("-0.4\tb", "-0.4\t\t-0.1", r"line 13: '-0.4\\t\\t-0.1' has an empty field"),
        ("-0.4\tb", "-0.4\t \t-0.1", r"line 13: '-0.4\\t \\t-0.1' has an empty field"),
        ("-0.4\tb", "-0.4  -0.1", r"line 13: '-0.4  -0.1' has an empty field"),
        ("-0.7\ta </s>", "-0.7\t\ta </s>", r"line 18: .* has an empty field"),
    ],
)
def test_errors_name_the_file_and_the_line(saved, old, new, message):
    assert old in SRILM
    path = saved(SRILM.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        read_arpa(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_cut_anywhere_is_refused(saved):
    whole = SRILM[: SRILM.index("\\end\\") + 4]
    for end in range(0, len(whole), 7):
        with pytest.raises(InputError, match=r"model\.arpa"):
            read_arpa(saved(whole[:end]))
    compressed = gzip.compress(SRILM.encode())
    for end in (3, len(compressed) // 2, len(compressed) - 1):
        with pytest.raises(InputError, match=r"model\.arpa: a damaged or truncated gzip file"):
            read_arpa(saved(compressed[:end]))


def test_bytes_that_are_no_text_are_refused(saved):
    with pytest.raises(InputError, match=r"line 13: .*expected a word in UTF-8"):
        read_arpa(saved(SRILM.encode().replace(b"-0.4\tb", b"-0.4\t\xff")))


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.arpa: no such file"):
        read_arpa(tmp_path / "nowhere.arpa")
    with pytest.raises(InputError, match="a folder"):
        read_arpa(tmp_path)


def test_mapping_onto_a_list_of_words(saved):
    tables = read_arpa(saved(SRILM)).onto(["c", "b", "a"])
    assert tables.words == ("c", "b", "a")
    assert [rows.tolist() for rows in tables.ngrams] == [[[2], [1]], [[2, 1]], []]
    np.testing.assert_allclose(tables.log10_probabilities[0], [-0.5228787, -0.4])
    np.testing.assert_allclose(tables.log10_backoffs[1], [0.05])
    model = make_model(tables)
    expected = [0.0, 10**-0.2218487, 10 ** (-0.1760913 - 0.5228787)]
    np.testing.assert_allclose(model.distributions(np.array([[-1, 2]]))[0], expected)


def test_words_that_the_file_does_not_know_share_its_unknown_word(saved):
    tables = read_arpa(saved(KENLM))
    unigrams = make_model(tables.onto(["c", "a", "d", "b"])).unigrams()
    np.testing.assert_allclose(unigrams, [0.05, 10**-0.25, 0.05, 10**-0.5])
    # With <unk> a word of the list like any other, nothing is left for c.
    unigrams = make_model(tables.onto(["c", "a", "<unk>"])).unigrams()
    np.testing.assert_allclose(unigrams, [0.0, 10**-0.25, 0.1])


def test_both_spellings_of_the_unknown_word_are_one(saved):
    upper = saved(KENLM.replace("<unk>", "<UNK>"))
    for given, lists in ((saved(KENLM, "x"), ("<unk>", "<UNK>")), (upper, ("<unk>", "<UNK>"))):
        tables = read_arpa(given)
        unigrams = make_model(tables.onto(["c", "a", "d", "b"])).unigrams()
        np.testing.assert_allclose(unigrams, [0.05, 10**-0.25, 0.05, 10**-0.5])
        for unknown in lists:
            unigrams = make_model(tables.onto(["c", "a", unknown])).unigrams()
            np.testing.assert_allclose(unigrams, [0.0, 10**-0.25, 0.1])
    both = read_arpa(
        saved(KENLM.replace("ngram 1=5", "ngram 1=6").replace("-0.8", "-2\t<UNK>\n-0.8"))
    )
    for unknown, log10 in (("<unk>", -1), ("<UNK>", -2)):  # two words where a file has both
        unigrams = make_model(both.onto(["a", unknown])).unigrams()
        np.testing.assert_allclose(unigrams, [10**-0.25, 10**log10])


def test_a_text_with_sentence_marks_keeps_its_perplexity(saved, tmp_path):
    words = ("<s>", "a", "b", "<unk>", "</s>")
    tokens = np.random.default_rng(0).integers(0, 5, 400)
    with pytest.warns(UserWarning, match="Kneser-Ney discounts"):
        model = fit_kneser_ney(count_ngrams(tokens[:20], 2, 5))
    write_arpa(tmp_path / "m.Arpa.GZ", NgramTables(words, *model.tables()))
    assert (tmp_path / "m.Arpa.GZ").read_bytes()[:2] == b"\x1f\x8b"
    again = make_model(read_arpa(tmp_path / "m.Arpa.GZ"))
    expected = perplexity(model, tokens, 20, 400)
    assert perplexity(again, tokens, 20, 400) == pytest.approx(expected, rel=1e-7)


def test_mapping_refuses_bad_lists(saved):
    tables = read_arpa(saved(SRILM))
    with pytest.raises(InputError, match="the word 'a' is twice in the list"):
        tables.onto(["a", "b", "a"])
    with pytest.raises(InputError, match="none of the 2 words of the list is among the 4 words"):
        tables.onto(["x", "y"])
    with pytest.raises(InputError, match="words are the string 'ab', expected a list of words"):
        tables.onto("ab")


@pytest.mark.filterwarnings("ignore:Kneser-Ney discounts")
@pytest.mark.parametrize("name", ["model.arpa", "model.arpa.gz"])
@pytest.mark.parametrize("interpolated", [True, False])
@pytest.mark.parametrize("order", range(1, 6))
def test_round_trip(tmp_path, order, interpolated, name):
    size = 12
    rng = np.random.default_rng(order)
    tokens = rng.zipf(1.7, 800).clip(max=size - 1) - 1
    model = fit_kneser_ney(count_ngrams(tokens, order, size), interpolated)
    words = tuple(f"wörd{i}" for i in range(size))
    path = tmp_path / name
    write_arpa(path, NgramTables(words, *model.tables()))
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")
    assert [p.name for p in tmp_path.iterdir()] == [name]
    tables = read_arpa(path)
    assert tables.words == words
    contexts = np.concatenate(
        [rng.integers(-1, size, (20, order - 1)), rng.integers(0, 3, (20, order - 1))]
    )
    table = model.distributions(contexts)
    np.testing.assert_allclose(make_model(tables).distributions(contexts), table, rtol=1e-6)
    turned = make_model(tables.onto(words[::-1]))
    flipped = np.where(contexts >= 0, size - 1 - contexts, -1)
    np.testing.assert_allclose(turned.distributions(flipped)[:, ::-1], table, rtol=1e-6)


def test_the_text_that_is_written(tmp_path):
    tables = NgramTables(
        ("a", "b"),
        (np.array([[0], [1]]), np.array([[0, 1]])),
        (np.array([-0.25, -99.0]), np.array([-1 / 3])),
        (np.array([-0.5, 0.0]), np.array([0.0])),
    )
    write_arpa(tmp_path / "x", tables, sentence_marks=True)
    expected = """\
        \\data\\
        ngram 1=4
        ngram 2=1

        \\1-grams:
        -0.25\ta\t-0.5
        -99\tb\t0
        -99\t<s>\t0
        -99\t</s>\t0

        \\2-grams:
        -0.333333333\ta b

        \\end\\
        """
    assert (tmp_path / "x").read_text() == textwrap.dedent(expected)


def test_writing_refuses_what_could_not_be_read_back(tmp_path):
    one, zero = (np.array([[0], [1]]),), (np.zeros(2),)
    path = tmp_path / "x.arpa"
    for tables, message in [
        (
            NgramTables(("a b", "c"), one, zero, zero),
            "the word 'a b' is empty or holds white space",
        ),
        (NgramTables(("", "c"), one, zero, zero), "the word '' is empty"),
        (NgramTables(("c", "c"), one, zero, zero), "the word 'c' is given twice"),
        (NgramTables(("c",), one, zero, zero), r"1-grams have ids outside \[0, 1\)"),
        (
            NgramTables(("a", "c"), one, zero, (np.zeros(3),)),
            r"have shapes \(2, 1\), \(2,\), \(3,\)",
        ),
        (NgramTables(("a", "c"), one, zero * 2, zero), "different numbers of orders"),
        (NgramTables(("a", "c"), (), (), ()), "different numbers of orders, or none"),
        (NgramTables(("a", "c"), one, (np.array([0, np.nan]),), zero), "that is not finite"),
        (NgramTables(("a", "c"), one, zero, (np.ones(2),)), "1-grams have back-off weights"),
        (NgramTables("ac", one, zero, zero), "words are the string 'ac'"),
        (NgramTables(("\ud800", "c"), one, zero, zero), "half of a surrogate pair"),
    ]:
        with pytest.raises(InputError, match=message):
            write_arpa(path, tables)
    assert not list(tmp_path.iterdir())


def test_a_row_far_into_the_file_is_named(saved, monkeypatch):
    monkeypatch.setattr("jaxgen.interop.arpa_reading._ROWS", 4)  # parsed in several parts
    words = [f"w{i}" for i in range(10)]
    lines = [f"-1\t{word}" for word in words]
    pairs = [f"-1\t{words[i % 10]} {words[i // 10]}" for i in range(60)]
    head = f"\\data\\\nngram 1=10\nngram 2={len(pairs)}\n\n\\1-grams:\n"
    tables = read_arpa(
        saved(f"{head}{chr(10).join(lines)}\n\n\\2-grams:\n{chr(10).join(pairs)}\n\n\\end\\\n")
    )
    np.testing.assert_array_equal(tables.ngrams[1], [[i % 10, i // 10] for i in range(60)])
    pairs[57] = pairs[3]
    text = f"{head}{chr(10).join(lines)}\n\n\\2-grams:\n{chr(10).join(pairs)}\n\n\\end\\\n"
    with pytest.raises(InputError, match=r"line 75: '-1 w3 w0', expected each 2-gram once"):
        read_arpa(saved(text))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_reading_needs_the_memory_of_the_tables(tmp_path):
    # 66 MB within 300 MB, of which the interpreter with numpy and JAX takes some 170.
    path, size, rng = tmp_path / "large.arpa", 60_000, np.random.default_rng(0)
    first = np.repeat(np.arange(size), 16)
    second = (first * 7 + np.tile(np.arange(16), size) * 3001) % size
    with path.open("w") as file:
        file.write(f"\\data\\\nngram 1={size}\nngram 2={len(first)}\nngram 3={len(first)}\n")
        file.write("\n\\1-grams:\n")
        file.write("".join(f"-4.778151\tword{i}\t-0.301030\n" for i in range(size)))
        file.write("\n\\2-grams:\n")
        pairs = [f"word{a} word{b}" for a, b in zip(first.tolist(), second.tolist(), strict=True)]
        file.write("".join(f"-1.204120\t{pair}\t-0.301030\n" for pair in pairs))
        file.write("\n\\3-grams:\n")
        third = rng.integers(0, size, len(pairs)).tolist()
        file.write("".join(f"-0.602060\t{p} word{w}\n" for p, w in zip(pairs, third, strict=True)))
        file.write("\n\\end\\\n")
    assert path.stat().st_size > 66e6
    code = (
        "import re, sys\n"
        "from jaxgen.interop.arpa import read_arpa\n"
        "tables = read_arpa(sys.argv[1])\n"
        "assert tables.ngrams[2].shape == (960000, 3)\n"
        # ru_maxrss would be at least that of the process which started this one.
        "status = open('/proc/self/status').read()\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+) kB', status)[1]) / 1024)\n"
    )
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 300
