"""tfds text sets in the array_record format, built and read in a process of their own."""

import pytest
from tfds_scripts import answer_of

from jaxgen.data import load_corpus, load_images
from jaxgen.errors import InputError

pytest.importorskip("tensorflow_datasets", reason="needs tensorflow-datasets: jaxgen[data]")
pytest.importorskip("array_record", reason="needs array_record: jaxgen[data]")


@pytest.fixture(scope="module")
def answer(tmp_path_factory) -> dict:
    return answer_of("tfds_sets.py", tmp_path_factory.mktemp("tfds"))


def test_parts_follow_each_other_with_their_spans(answer):
    tokens, spans = answer["streams"]["three_parts"]
    assert spans == {"train": [0, 240], "validation": [240, 264], "test": [264, 280]}
    assert len(tokens) == 280
    records = {tuple(tokens[i : i + 8]) for i in range(0, 240, 8)}
    assert records == {
        ("train", "line", ".", "<p>", "Number", str(i), "!", "<p>") for i in range(1, 31)
    }
    assert tokens[240] == "validation"
    assert tokens[264] == "test"


def test_without_a_validation_part_the_end_of_training_takes_its_place(answer):
    _, spans = answer["streams"]["two_parts"]
    assert spans == {"train": [0, 216], "validation": [216, 240], "test": [240, 256]}


def test_a_training_part_alone_has_no_spans(answer):
    tokens, spans = answer["streams"]["one_part"]
    assert spans is None
    assert len(tokens) == 240


def test_the_front_door_opens_tfds_sets(answer):
    name, total, words = answer["corpus"]
    assert (name, total) == ("tfds:three_parts", 35 * 6)
    assert set(words[:4]) == {"line", ".", "Number", "!"}
    # Each number occurs at least once; those of the training part alone exactly once.
    assert {"1", "2", "3"} <= set(words)
    assert "30" not in words
    assert "<unk>" in words


def test_tensorflow_is_never_imported(answer):
    assert answer["tensorflow"] is False


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("set", "tfds:no_such_set: no such set in "),
        ("feature", "tfds:one_part: no text 'x'; its text features are: text"),
        ("unprepared", "tfds:unprepared: not prepared, no files in "),
        ("version", "tfds:one_part:9.9.9: no such "),
        ("configuration", "tfds:one_part/bad: no such "),
    ],
)
def test_faults_name_the_set(answer, fault, message):
    assert answer["faults"][fault].startswith(message)
    assert "\n" not in answer["faults"][fault]


def test_names_that_no_set_can_have():
    """Refused before tfds is asked, which would look for some of them in the network."""
    names = (
        "",
        "../x",
        "/",
        "a b",
        "x/",
        "a.b",
        "huggingface:x/y",
        "kaggle:x",
        "lm1b:x",
        "x\0",
        "é",
    )
    for name in names:
        for load in (load_corpus, load_images):
            with pytest.raises(InputError, match="expected tfds:NAME, tfds:NAME/CONFIGURATION or"):
                load(f"tfds:{name}")
