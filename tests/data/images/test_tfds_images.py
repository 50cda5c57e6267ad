"""tfds image sets in the array_record format, built and read in a process of their own."""

import pytest
from tfds_scripts import answer_of

pytest.importorskip("tensorflow_datasets", reason="needs tensorflow-datasets: jaxgen[data]")
pytest.importorskip("array_record", reason="needs array_record: jaxgen[data]")


@pytest.fixture(scope="module")
def answer(tmp_path_factory) -> dict:
    return answer_of("tfds_image_sets.py", tmp_path_factory.mktemp("tfds"))


def test_tensors_of_bytes(answer):
    found = answer["tensors"]
    assert found["name"] == "tfds:tensors"
    assert found["parts"] == {"train": [0, 18], "validation": [18, 20], "test": [20, 24]}
    assert sorted(found["numbers"][:20]) == list(range(20))
    assert sorted(found["numbers"][20:]) == list(range(4))
    assert found["labels"] == [i % 3 for i in found["numbers"]]
    assert found["classes"] == ["oak", "elm", "fir"]


def test_images_without_labels(answer):
    found = answer["images"]
    assert found["parts"] == {"train": [0, 7], "validation": [7, 10]}
    assert sorted(found["numbers"][:7]) == list(range(7))
    assert found["labels"] is None
    assert found["classes"] == []


def test_images_of_many_sizes(answer):
    assert answer["uneven"]["shape"] == [4, 4, 1]
    assert "give size to make them alike" in answer["faults"]["uneven"]
    assert answer["faults"]["uneven"].startswith("tfds:uneven: train record ")


def test_one_of_several_features(answer):
    assert sorted(answer["right"]["numbers"][:20]) == list(range(100, 120))
    assert answer["right"]["labels"] is None


def test_captions_are_texts_of_records_or_those_of_classes(answer):
    found = answer["captioned"]
    assert found["parts"] == answer["tensors"]["parts"]
    nouns = {"oak": "an oak", "elm": "an elm", "fir": "a fir"}
    for caption, name in zip(found["captions"], found["classes"], strict=True):
        assert caption.endswith(f" of {nouns[name]}")
    found = answer["of_texts"]
    assert found["captions"] == [f"tree {total}" for total in found["sums"]]
    assert len(found["captions"]) == 14


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("several", "tfds:two_pictures: no single image feature; its image features are: left, "),
        ("unknown", "tfds:tensors: no image 'x'; its image features are: picture"),
        ("set", "tfds:no_such_set: no such set in "),
        ("texts", "tfds:captioned: caption_feature is None, expected one of its texts, caption, t"),
        ("empty", "tfds:captioned: short captions: "),
    ],
)
def test_faults_name_the_set(answer, fault, message):
    assert answer["faults"][fault].startswith(message)


def test_tensorflow_is_never_imported(answer):
    assert answer["tensorflow"] is False
