"""The Brown reader: on three small texts, and on the corpus itself where there is one."""

from collections import Counter

import pytest
from texts import BROWN, write_folder, write_zip

from jaxgen.data import read_brown
from jaxgen.errors import InputError

FIRST = ["The", "Jury", "said", "either/or", ".", "It", "did", ".", "<p>", "So", ".", "<p>"]
WORDS = [*FIRST, "Sunday", "came", ".", "<p>", "Atlanta's", "``", "end", "''", "<p>"]


@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_words_in_the_order_of_the_files_with_a_mark_a_paragraph(tmp_path, write):
    stream = read_brown(write(tmp_path / "corpus", BROWN))
    assert stream.tokens == WORDS
    assert stream.tags is None


def test_tags_kept_beside_the_words(tmp_path):
    stream = read_brown(write_zip(tmp_path / "b.zip", BROWN), tags=True)
    assert stream.tags[:9] == ["at", "nn-tl", "vbd", "cc", ".", "pps", "dod", ".", "<p>"]
    assert len(stream.tags) == len(stream.tokens) == 21


def test_marks_of_paragraphs_and_texts_are_optional(tmp_path):
    path = write_zip(tmp_path / "b.zip", BROWN)
    assert read_brown(path, paragraph_mark=None).tokens == [w for w in WORDS if w != "<p>"]
    both = read_brown(path, paragraph_mark="P", text_mark="T").tokens
    assert Counter(both)["P"] == 4
    assert [i for i, word in enumerate(both) if word == "T"] == [12, 17, 23]


def test_a_word_without_a_tag_names_file_and_line(tmp_path):
    path = write_zip(tmp_path / "b.zip", {"ca01": "\nThe/at\nbad word/nn\n"})
    with pytest.raises(InputError, match=r"b\.zip: ca01, line 3: 'bad', expected word/tag"):
        read_brown(path)


def test_the_same_text_twice_is_refused(tmp_path):
    path = write_zip(tmp_path / "b.zip", {"x/ca01": "A/at", "y/ca01": "A/at"})
    with pytest.raises(InputError, match="the same text twice, x/ca01 and y/ca01"):
        read_brown(path)


def test_a_zip_without_brown_files(tmp_path):
    with pytest.raises(InputError, match=r"b\.zip: holds no Brown files"):
        read_brown(write_zip(tmp_path / "b.zip", {"ca1": "A/at", "zz01": "A/at"}))


def test_counts_of_the_corpus(data_folder):
    stream = read_brown(data_folder / "brown" / "brown.zip", paragraph_mark=None)
    counts = Counter(stream.tokens)
    assert len(stream) == 1_161_192
    assert len(counts) == 56_057
    assert sum(count > 3 for count in counts.values()) == 17_904
    assert sum(count for count in counts.values() if count > 3) == 1_106_010
    assert len(Counter(stream.tokens[:800_000])) == 46_187
    assert len(read_brown(data_folder / "brown" / "brown.zip")) == 1_176_859
