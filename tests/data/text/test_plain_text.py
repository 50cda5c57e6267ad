"""The tokeniser and the reader of text files."""

import pathlib

import pytest
from texts import write_folder, write_zip

from jaxgen.data import read_plain_text, tokenise
from jaxgen.data.text.plain_text import mark_sentences, paragraphs, tokenise_text
from jaxgen.errors import InputError


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Don't stop.", ["Don't", "stop", "."]),
        ("the café’s well-known twenty-one", ["the", "café’s", "well-known", "twenty-one"]),
        ("$1,000.50 at 12:30, 3.14!", ["$", "1,000.50", "at", "12:30", ",", "3.14", "!"]),
        ("wait... no -- yes-", ["wait", "...", "no", "--", "yes", "-"]),
        ("f(x)=__init__ x86_64", ["f", "(", "x", ")", "=", "__init__", "x86_64"]),
        ("'quoted' \"dogs'\"", ["'", "quoted", "'", '"', "dogs", "'", '"']),
        ("1990. 2,3 5th 3.5mm", ["1990", ".", "2,3", "5th", "3", ".", "5mm"]),
        ("Ünïcode 東京 ½", ["Ünïcode", "東京", "½"]),
        (" \n\t ", []),
    ],
)
def test_tokens(text, tokens):
    assert tokenise(text) == tokens


def test_nothing_but_white_space_is_lost():
    text = pathlib.Path(__file__).read_text(encoding="utf-8")
    assert "".join(tokenise(text)) == "".join(text.split())


def test_paragraphs_are_what_blank_lines_separate():
    assert list(paragraphs("\n\na\nb\n  \t\n\n c\n\n\n")) == ["a\nb", " c"]


def test_sentence_marks_follow_closing_signs():
    tokens = tokenise('He said "Go!" Then... (it ended.) Really?! Yes')
    marked = " ".join(mark_sentences(tokens, "|"))
    assert marked == 'He said " Go ! " | Then ... | ( it ended . ) | Really ? ! | Yes |'
    assert mark_sentences([], "|") == []


def test_marks_are_where_they_are_asked_for():
    text = "A b. C.\n\nD"
    assert tokenise_text(text) == ["A", "b", ".", "C", ".", "D"]
    assert tokenise_text(text, "<p>") == ["A", "b", ".", "C", ".", "<p>", "D", "<p>"]
    with_both = tokenise_text(text, "<p>", "<s>")
    assert with_both == ["A", "b", ".", "<s>", "C", ".", "<s>", "<p>", "D", "<s>", "<p>"]


def test_a_file_keeps_case_and_drops_a_byte_order_mark(tmp_path):
    file = tmp_path / "story.txt"
    file.write_bytes("\ufeffOnce upon\r\na Time.\r\n\r\nEnd".encode())
    stream = read_plain_text(file, paragraph_mark="<p>")
    assert stream.tokens == ["Once", "upon", "a", "Time", ".", "<p>", "End", "<p>"]
    assert stream.name == str(file)


@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_text_files_of_a_folder_or_zip_in_the_order_of_names(tmp_path, write):
    files = {"b.txt": "two", "a.txt": "one", "sub/c.txt": "three", "._a.txt": b"\0", "d.md": "x"}
    assert read_plain_text(write(tmp_path / "x", files)).tokens == ["one", "two", "three"]


def test_another_encoding(tmp_path):
    file = tmp_path / "latin.txt"
    file.write_bytes("café au lait".encode("latin-1"))
    assert read_plain_text(file, encoding="latin-1").tokens == ["café", "au", "lait"]
    with pytest.raises(InputError, match=r"latin\.txt: not utf-8 text: byte 0xe9 at offset 3"):
        read_plain_text(file)
    with pytest.raises(InputError, match=r"latin\.txt: unknown encoding: martian"):
        read_plain_text(file, encoding="martian")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "the file is empty"),
        (b" \n\n", "no words, only white space"),
        (b"abc\0def", "binary data, not text: a zero byte at offset 3"),
        ("é\0".encode(), "a zero byte at offset 2"),
        (bytes(range(128, 256)), "byte 0x80 at offset 0"),
        (b"ok\xc3", "byte 0xc3 at offset 2 .unexpected end of data"),
    ],
)
def test_bad_files(tmp_path, content, fault):
    file = tmp_path / "bad.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"bad\.txt: .*{fault}") as error:
        read_plain_text(file)
    assert "\n" not in str(error.value)


def test_a_folder_without_text_and_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"holds no text files \(\*\.txt\)"):
        read_plain_text(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        read_plain_text(tmp_path / "nowhere.txt")
