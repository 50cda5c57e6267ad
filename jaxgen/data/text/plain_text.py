"""Plain text: a tokeniser, and a reader of text files.

A token is the longest of, at each place (`TOKEN`):

* a word: letters, digits and underscores, also several of them joined by single apostrophes or
  hyphens (``don't``, ``twenty-one``, ``x86``, ``__init__``);
* a number: digits joined by single points, commas or colons (``3.14``, ``1,000``, ``12:30``);
* two or more points or hyphens in a row (``...``, ``--``);
* any other sign that is not white space, by itself.

Case is kept. Letters are what Unicode calls letters; scripts that write no spaces, or vowels as
combining marks, want a tokeniser of their own, and then `jaxgen.data.text.token_files`.
"""

import re
from collections.abc import Iterator

from jaxgen.data.archives import Path, decode_text, is_container, read_bytes, read_members
from jaxgen.data.text.corpus import TokenStream
from jaxgen.errors import InputError
from jaxgen.text_rules import has_suffix

TOKEN = re.compile(r"\d+(?:[.,:]\d+)+(?!\w)|\w+(?:['’-]\w+)*|\.{2,}|-{2,}|[^\w\s]")

SENTENCE_ENDS = frozenset({".", "!", "?", "..."})
CLOSING_SIGNS = frozenset("\"'”’»)]}")


def tokenise(text: str) -> list[str]:
    """Words, numbers and punctuation of a text, in order, by `TOKEN`.

    Example:
      >>> tokenise("Don't pay 3.14 twice...")
      ["Don't", 'pay', '3.14', 'twice', '...']
    """
    return TOKEN.findall(text)


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a text: what blank lines separate."""
    for block in re.split(r"\n[^\S\n]*\n", text):
        if block.strip():
            yield block.strip("\n")


def mark_sentences(tokens: list[str], mark: str) -> list[str]:
    """Puts a mark after each sentence.

    A sentence ends with ``. ! ?`` or ``...`` and the closing quotes and brackets that follow, and
    where the tokens end. Abbreviations ("Mr.") are taken for ends too.
    """
    marked: list[str] = []
    ended = False
    for token in tokens:
        if ended and token not in CLOSING_SIGNS and token not in SENTENCE_ENDS:
            marked.append(mark)
            ended = False
        marked.append(token)
        ended = ended or token in SENTENCE_ENDS
    return [*marked, mark] if tokens else []


def tokenise_text(
    text: str, paragraph_mark: str | None = None, sentence_mark: str | None = None
) -> list[str]:
    """Tokens of a text of several paragraphs, with marks where they are asked for.

    Args:
      text: The text; blank lines separate paragraphs.
      paragraph_mark: Word put after each paragraph, or None.
      sentence_mark: Word put after each sentence (`mark_sentences`), or None.
    """
    tokens: list[str] = []
    for paragraph in paragraphs(text):
        words = tokenise(paragraph)
        tokens += words if sentence_mark is None else mark_sentences(words, sentence_mark)
        if paragraph_mark is not None:
            tokens.append(paragraph_mark)
    return tokens


def read_plain_text(
    path: Path,
    *,
    paragraph_mark: str | None = None,
    sentence_mark: str | None = None,
    encoding: str = "utf-8",
) -> TokenStream:
    """Reads a text file, or all ``*.txt`` files of a folder or zip archive by order of name.

    ``*.TXT`` and ``*.txt.gz`` count too; `left_out` names the other files.

    Args:
      path: The file, folder or archive.
      paragraph_mark: Word put after each paragraph, or None. The end of a file ends a paragraph.
      sentence_mark: Word put after each sentence, or None.
      encoding: The files' encoding.

    Raises:
      FileNotFoundError: There is no such path.
      InputError: An empty file, one that is not text in this encoding (file and byte offset), a
        damaged zip, a folder without text files, or no words at all.
    """
    if is_container(path):
        members, left_out = read_members(
            path, lambda name: has_suffix(name, ".txt"), "text files (*.txt)"
        )
        sources = {f"{path}: {name}": content for name, content in members.items()}
    else:
        sources, left_out = {str(path): read_bytes(path)}, ()
    tokens: list[str] = []
    for source, content in sources.items():
        text = decode_text(content, source, encoding)
        tokens += tokenise_text(text, paragraph_mark, sentence_mark)
    if not tokens:
        raise InputError(f"{path}: no words, only white space")
    return TokenStream(str(path), tokens, left_out=left_out)
