"""The corpus that needs no download."""

import sys

import pytest

from jaxgen.data import load_corpus, read_builtin, tokenise
from jaxgen.data.text.builtin_text import clean_paragraph, prose_paragraphs
from jaxgen.errors import InputError

pytest.importorskip("pydoc_data.topics", reason="this Python carries no language reference")

PROSE = "The statement is executed by evaluating the expression list."


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (
            'The "assert" statement\n**********************\nis a convenient way to insert\n'
            "debugging assertions.",
            "The assert statement is a convenient way to insert debugging assertions.",
        ),
        (
            "   * A *bound method* is an object [2] with **two** special read-\n     only names.",
            "A bound method is an object with two special read-only names.",
        ),
        (
            "3. If *x* has a value, x * y * z is [1, 2] and *so on*.",
            "If x has a value, x * y * z is [1, 2] and so on.",
        ),
        ("[4] This note explains the reason for it.", "This note explains the reason for it."),
    ],
)
def test_markup_is_stripped(block, text):
    assert clean_paragraph(block) == text


@pytest.mark.parametrize(
    "block",
    [
        '   assert_stmt ::= "assert" expression ["," expression]',
        "   >>> def f(x):\n   ...     print(1 / x)",
        "Built-in functions",
        "   Example:",
        "object.__add__(self, other)\nobject.__sub__(self, other)\nobject.__mul__(self, other)",
        '   +-------+------+\n   | "s"   | text |\n   +=======+======+',
        "   if __debug__:\n       if not expression: raise AssertionError(expression2)",
        "   class A:\n       a = 42\n       b = list(a + i for i in range(10))",
        "**********",
    ],
)
def test_what_is_not_prose_is_left_out(block):
    assert clean_paragraph(block) == ""


def test_repeated_paragraphs_count_once_whatever_their_line_breaks():
    other = "A second paragraph says something else altogether."
    broken = PROSE.replace("executed ", "executed\n")
    topics = {"b": f"{broken}\n\n{other}\n", "a": f"Title\n=====\n\n{PROSE}\n\n   {PROSE}"}
    assert list(prose_paragraphs(topics)) == [PROSE, other]


def test_three_parts_alike_and_disjoint():
    stream = read_builtin()
    parts = {
        part: tuple(" ".join(stream.tokens[start:stop]).split("<p>"))
        for part, (start, stop) in stream.spans.items()
    }
    assert list(parts) == ["train", "validation", "test"]
    paragraphs = [p for texts in parts.values() for p in texts if p.strip()]
    assert len(paragraphs) == len(set(paragraphs))
    total = len(stream)
    assert 45_000 < total < 90_000  # 52,855 in Python 3.11.7
    for part, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        start, stop = stream.spans[part]
        assert (stop - start) / total == pytest.approx(share, abs=0.02)


def test_every_tenth_paragraph_is_for_test():
    import pydoc_data.topics

    paragraphs = list(prose_paragraphs(pydoc_data.topics.topics))
    stream = read_builtin(paragraph_mark=None)
    start, stop = stream.spans["test"]
    expected = [word for text in paragraphs[9::10] for word in tokenise(text)]
    assert stream.tokens[start:stop] == expected
    start, stop = stream.spans["validation"]
    assert stream.tokens[start:stop] == [w for text in paragraphs[4::10] for w in tokenise(text)]


def test_the_default_vocabulary():
    corpus = load_corpus("builtin")
    assert 1_400 < len(corpus.vocabulary) < 2_500  # 1,647 in Python 3.11.7
    share = (corpus.tokens == corpus.vocabulary.unknown).mean()
    assert 0.03 < share < 0.07
    assert {"the", "object", "class", "<p>"} <= set(corpus.vocabulary.words[:40])
    assert not {'"', ">>>", "::=", "***"} & set(corpus.vocabulary.words)


def test_a_python_without_the_reference(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data", None)
    with pytest.raises(InputError, match="builtin: this Python carries no language reference"):
        load_corpus("builtin")
