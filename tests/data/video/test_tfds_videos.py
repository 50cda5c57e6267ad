"""tfds video sets in the array_record format, built and read in a process of their own."""

import pytest
from tfds_scripts import answer_of

pytest.importorskip("tensorflow_datasets", reason="needs tensorflow-datasets: jaxgen[data]")
pytest.importorskip("array_record", reason="needs array_record: jaxgen[data]")


@pytest.fixture(scope="module")
def answer(tmp_path_factory) -> dict:
    return answer_of("tfds_video_sets.py", tmp_path_factory.mktemp("tfds"))


def test_clips_of_a_set_of_videos(answer):
    found = answer["clips"]
    assert found["name"] == "tfds:sequences"
    # Records of 4, 5 and 6 frames: 2, 2 and 3 clips; a tenth of 3, none, is for validation.
    assert found["parts"] == {"train": [0, 7], "test": [7, 11]}
    expected = {(20 * i + 2 * j, 20 * i + 2 * j + 1) for i in range(3) for j in range((i + 4) // 2)}
    assert {tuple(values) for values in found["values"][:7]} == expected
    assert found["labels"] == [values[0] // 20 % 2 for values in found["values"]]
    assert found["classes"] == ["run", "walk"]
    assert found["shape"] == [2, 3, 4, 1]
    assert answer["test"]["values"] == found["values"][7:]
    assert answer["test"]["parts"] == {"test": [0, 4]}


def test_the_video_feature_is_read_alike_where_tfds_can_open_it(answer):
    assert answer["videos"] == {**answer["clips"], "name": "tfds:actions"}
    fault = answer["faults"]["video"]
    assert not fault or fault.startswith("tfds:actions: needs the package tensorflow, without")


def test_whole_records_and_strides(answer):
    values = answer["whole"]["values"]
    assert sorted(map(tuple, values[:3])) == [(0, 2), (20, 22, 24), (40, 42, 44)]
    assert answer["whole"]["shape"][1:] == [6, 8, 3]


def test_tensors_one_of_several_features(answer):
    found = answer["tensors"]
    assert sorted(values[0] for values in found["values"]) == [20 * i + 1 for i in range(10)]
    assert found["labels"] == []
    assert found["parts"] == {"train": [0, 9], "validation": [9, 10]}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("several", "tfds:tensors: no single video feature; its video features are: a, b"),
        ("unknown", "tfds:sequences: no video 'x'; its video features are: video"),
        ("long", "tfds:sequences: no record of train has 9 frames at stride 1, expected one"),
        ("set", "tfds:no_such_set: no such set in "),
        ("frames", "frames is 0, expected 1 or more"),
    ],
)
def test_faults_name_the_set(answer, fault, message):
    assert answer["faults"][fault].startswith(message)


def test_tensorflow_is_never_imported(answer):
    assert answer["tensorflow"] is False
