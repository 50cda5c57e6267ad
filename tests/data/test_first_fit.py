"""First-fit packing by hand and in numbers: padding, two limits, sorted windows."""

import numpy as np
import pytest

from jaxgen.data.first_fit import Packer, longest_first
from jaxgen.errors import InputError


def test_by_hand():
    packer = Packer(pack_length=10, max_examples=3, max_open=2)
    assert packer.add(0, 6) == []
    assert packer.add(1, 7) == []  # does not fit beside example 0
    assert packer.add(2, 3) == []  # fits into the first open sequence: 0 has room
    assert packer.sequences == [[0, 2], [1]]
    assert packer.add(3, 4) == [[0, 2]]  # fits nowhere: the fullest is closed
    assert packer.add(4, 3) == [[1, 4]]  # full
    assert packer.add(5, 1) == []
    assert packer.add(6, 1) == [[3, 5, 6]]  # three examples are the most
    assert packer.flush() == []
    packer.add(7, 2)
    assert packer.flush() == [[7]]


def test_texts_have_a_length_of_their_own():
    packer = Packer(pack_length=10, max_examples=9, max_open=2, text_length=5)
    assert packer.add(0, 2, 4) == []
    assert packer.add(1, 2, 2) == []  # the tokens fit, the texts do not
    assert packer.add(2, 2, 1) == []
    assert packer.add(3, 2, 0) == []  # without a text, where no further text fits
    assert packer.sequences == [[0, 2, 3], [1]]
    assert packer.add(4, 2, 5) == [[0, 2, 3]]
    assert packer.flush() == [[1], [4]]
    assert packer.used == packer.used_text == []


def test_what_fits_in_no_sequence_is_refused():
    packer = Packer(8, 4, text_length=3)
    whose = r"example 5 \(clips/a.mp4\) has"
    for length, text, message in (
        (9, 0, f"{whose} 9 tokens, expected 1 to 8, the length of a pack"),
        (0, 0, f"{whose} 0 tokens"),
        (-1, 0, f"{whose} -1 tokens"),
        (8, 4, f"{whose} a text of 4 tokens, expected 0 or at most 3, the texts of a pack"),
        (8, -1, f"{whose} a text of -1 tokens"),
    ):
        with pytest.raises(InputError, match=message):
            packer.add(5, length, text, name="clips/a.mp4")
    with pytest.raises(InputError, match="text_length is -1, expected 0 or more, or None"):
        Packer(8, 4, text_length=-1)


def test_windows_are_sorted_one_by_one():
    index, length = np.arange(10, 17), np.array([1, 3, 2, 2, 5, 4, 9])
    assert longest_first(index, length, 3).tolist() == [11, 12, 10, 14, 15, 13, 16]
    assert longest_first(index, length, 100).tolist() == [16, 14, 15, 11, 12, 13, 10]
    assert longest_first(index, length, 1).tolist() == index.tolist()
    with pytest.raises(InputError, match="window is 0, expected 1 example or more"):
        longest_first(index, length, 0)
