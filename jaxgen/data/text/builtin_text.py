"""A corpus that needs no download: the language reference that CPython carries as text.

`pydoc_data.topics` (what ``help("assignment")`` prints) holds 79 topics of the reference manual as
plain text. Of it the corpus takes the prose: code, grammar, tables, headings and signatures are
left out, mark-up signs too, and a paragraph that several topics repeat counts once (a fifth of the
text repeats; without this, parts of the test text would stand word for word in the training text).

The text differs a little between Python versions, hence so do perplexities. Python 3.11.7 gives
52,855 tokens with paragraph marks (42,214 / 5,059 / 5,582) and 1,647 words after merging those of
frequency <= 2, which are 4.9 % of the tokens.
"""

import re
from collections.abc import Iterator, Mapping

from jaxgen.data.text.corpus import PARAGRAPH, TokenStream
from jaxgen.data.text.plain_text import paragraphs, tokenise
from jaxgen.errors import InputError

FEWEST_WORDS = 6
LEAST_SHARE_OF_WORDS = 0.5
"""What makes a paragraph prose: it has so many words at least, so many of its tokens are words, and
it begins and ends as sentences do."""

_begins_and_ends_well = re.compile(r"[A-Za-z_“‘(].*[.:?!;][”’)]*", re.DOTALL).fullmatch
_is_ornament = re.compile(r"\s*([^\w\s])\1{2,}\s*").fullmatch
_LIST_SIGN = re.compile(r"^\s*(?:\*|\d+\.|[a-z]\)|[IVX]+\.|\[\d+\])\s+")  # "* ", "3. ", "[2] "
_EMPHASIS = re.compile(r"(?<![\w*])(\*{1,2})(?=\w)([^*]*)(?<=[\w)\].,:])\1(?![\w*])")
_FOOTNOTE = re.compile(r"\s*\[\d+\](?=[\s.,;:)]|$)")


def read_builtin(paragraph_mark: str | None = PARAGRAPH) -> TokenStream:
    """The prose of CPython's language reference, split in train, validation and test.

    Topics are taken in the order of their names. Of every ten paragraphs the fifth is for
    validation and the tenth for test, so that the three parts are alike. A split in the order of
    topics would leave the test part to one subject (the sequence types) that the training part does
    not have, and measure the change of subject more than the model: there an interpolated trigram
    has a test perplexity of 124, here 73 (modified Kneser-Ney of order 5: 114 and 62). The parts
    follow each other in the stream, as in any corpus.

    Args:
      paragraph_mark: Word put after each paragraph, or None.

    Raises:
      InputError: This Python carries no language reference (`pydoc_data` is left out of some
        distributions).
    """
    texts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for number, paragraph in enumerate(prose_paragraphs(_topics())):
        texts[_part(number)] += tokenise(paragraph)
        if paragraph_mark is not None:
            texts[_part(number)].append(paragraph_mark)
    tokens: list[str] = []
    spans: dict[str, tuple[int, int]] = {}
    for part, words in texts.items():
        spans[part] = (len(tokens), len(tokens) + len(words))
        tokens += words
    return TokenStream("builtin", tokens, spans=spans)


def _part(number: int) -> str:
    return {4: "validation", 9: "test"}.get(number % 10, "train")


def _topics() -> Mapping[str, str]:
    try:
        from pydoc_data import topics
    except ImportError as error:
        raise InputError(
            "builtin: this Python carries no language reference (module pydoc_data.topics);"
            " use another corpus, or a Python with its documentation"
        ) from error
    return topics.topics


def prose_paragraphs(topics: Mapping[str, str]) -> Iterator[str]:
    """The paragraphs of prose of reference topics, each once, on one line, without mark-up.

    Args:
      topics: Name -> text as `pydoc_data.topics` has it.
    """
    seen: set[str] = set()
    for name in sorted(topics):
        for block in paragraphs(topics[name]):
            prose = clean_paragraph(block)
            if prose and prose not in seen:
                seen.add(prose)
                yield prose


def clean_paragraph(block: str) -> str:
    """One paragraph on one line without mark-up, or "" where it is not prose.

    Left out of a paragraph: underlines, list signs, footnote signs, ``*emphasis*``, and the double
    quotes that stand for literal type. Code, grammar, tables, headings and signatures are not prose
    because they are short or rich in signs.
    """
    lines = [line for line in block.split("\n") if line.strip() and not _is_ornament(line)]
    text = _LIST_SIGN.sub("", "\n".join(lines))
    text = re.sub(r"(?<=\w)-\n\s*(?=\w)", "-", text)
    text = _EMPHASIS.sub(r"\2", _FOOTNOTE.sub("", " ".join(text.split())))
    text = text.replace('"', "")
    return text if _is_prose(text) else ""


def _is_prose(text: str) -> bool:
    tokens = tokenise(text)
    words = sum(token[0].isalpha() or token[0] == "_" for token in tokens)
    return (
        words >= max(FEWEST_WORDS, LEAST_SHARE_OF_WORDS * len(tokens))
        and _begins_and_ends_well(text) is not None
    )
