"""A relabelled set: rows, the mixture, what is left half written, what reads it back."""

import json

import numpy as np
import pytest

from jaxgen.data import load_captioned
from jaxgen.data.captions.captioned_shapes import make_captioned_shapes
from jaxgen.data.captions.recaptions import ROWS, is_recaptioned, read_recaptions, recaption
from jaxgen.data.captions.shape_vocabulary import ShapeVocabulary
from jaxgen.errors import InputError

SHAPES = make_captioned_shapes(side=16, parts={"train": 30})
MOVING = make_captioned_shapes(ShapeVocabulary().moving(), side=16, frames=3, parts={"train": 5})


class Captioner:
    """Says the sum of a picture's numbers, and nothing of a black one."""

    def __init__(self, stop_after: int = 100):
        self.calls, self.stop_after = 0, stop_after

    def __call__(self, images, first):
        assert np.array_equal(images[0], SHAPES.images[first]) or first == 0
        self.calls += 1
        if self.calls > self.stop_after:
            raise KeyboardInterrupt
        return [say(image) if image.any() else "" for image in images]


def say(image):
    return f"a picture of {int(image.astype(int).sum())}"


def test_each_picture_has_a_row_and_the_folder_is_a_captioned_set(tmp_path):
    rows = recaption(tmp_path / "set", SHAPES, Captioner(), mix=0.6, seed=3, at_a_time=8)
    assert [row.original for row in rows] == list(SHAPES.descriptive)
    assert [row.written for row in rows] == [say(image) for image in SHAPES.images]
    chosen = [is_recaptioned(i, 0.6, 3) for i in range(30)]
    assert 10 < sum(chosen) < 25
    expected = [r.written if c else r.original for r, c in zip(rows, chosen, strict=True)]
    assert [row.caption for row in rows] == expected
    assert read_recaptions(tmp_path / "set") == rows

    found = load_captioned(tmp_path / "set")
    assert len(found) == 30
    of_picture = {
        image.tobytes(): text for image, text in zip(SHAPES.images, expected, strict=True)
    }
    for image, text in zip(found.images, found.descriptive, strict=True):
        assert of_picture[image.tobytes()] == text


def test_the_share_is_that_of_the_paper():
    shares = [np.mean([is_recaptioned(i, mix) for i in range(2000)]) for mix in (0, 0.95, 1)]
    assert shares[0] == 0
    assert abs(shares[1] - 0.95) < 0.02
    assert shares[2] == 1


def test_it_goes_on_where_it_was_left(tmp_path):
    whole = recaption(tmp_path / "whole", SHAPES, Captioner(), at_a_time=8)
    folder, first = tmp_path / "parts", Captioner(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        recaption(folder, SHAPES, first, at_a_time=8)
    assert len(read_recaptions(folder)) == 16
    with (folder / ROWS).open("ab") as handle:
        handle.write(b'{"file_name": "0000')
    second = Captioner()
    assert recaption(folder, SHAPES, second, at_a_time=8) == whole
    assert second.calls == 2  # of 14 pictures
    assert (folder / ROWS).read_bytes() == (tmp_path / "whole" / ROWS).read_bytes()
    third = Captioner()
    assert recaption(folder, SHAPES, third) == whole
    assert third.calls == 0


def test_of_several_processes_one_writes(tmp_path):
    rows = recaption(tmp_path / "set", SHAPES, Captioner(), write=False)
    assert not (tmp_path / "set").exists()
    assert recaption(tmp_path / "set", SHAPES, Captioner()) == rows


def test_where_nothing_was_written_the_original_stays(tmp_path):
    blank = SHAPES.with_captions(["first", *SHAPES.descriptive[1:]])
    images = blank.images.copy()
    images[0] = 0
    blank = type(blank)(
        "blank", images, blank.short, blank.descriptive, None, {"train": (0, len(blank))}
    )
    rows = recaption(tmp_path / "set", blank, Captioner(), mix=1.0)
    assert (rows[0].caption, rows[0].written) == ("first", "")
    assert load_captioned(tmp_path / "set").descriptive[0]


def test_clips_are_gifs(tmp_path):
    pytest.importorskip("av")
    recaption(tmp_path / "set", MOVING, Captioner(), mix=1.0)
    found = load_captioned(tmp_path / "set", frames=3)
    assert found.images.shape == MOVING.images.shape
    sums = {image.astype(int).sum() for image in MOVING.images}
    assert {int(text.split()[-1]) for text in found.descriptive} == sums


def test_what_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"mix is 1\.5, expected 0 <= mix <= 1"):
        recaption(tmp_path / "set", SHAPES, Captioner(), mix=1.5)
    recaption(tmp_path / "set", SHAPES, Captioner())
    other = SHAPES.with_captions(["another", *SHAPES.descriptive[1:]])
    with pytest.raises(InputError, match=r"row 0 is of 'a .*', expected the captions of captioned"):
        recaption(tmp_path / "set", other, Captioner())
    with (tmp_path / "set" / ROWS).open("a") as handle:
        handle.write(json.dumps({"file_name": "x"}) + "\n")
    with pytest.raises(InputError, match=r"line 31 is .*, expected file_name, caption, original"):
        recaption(tmp_path / "set", SHAPES, Captioner())
