"""Configurations survive JSON; what does not fit is refused by name."""

import dataclasses
import enum
import json
import math

import pytest
from mlp import MLPConfig

from jaxgen.errors import InputError
from jaxgen.training.optimizers import OptimizerConfig
from jaxgen.training.saved_configs import config_differences, config_from_json, config_to_json
from jaxgen.training.saved_names import CLASSES, FIRST_FORMAT, class_of, register_config


@register_config("test.colour")
class Color(enum.Enum):
    RED = "r"
    BLUE = "b"


@register_config("test.inner")
@dataclasses.dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)
    table: dict = dataclasses.field(default_factory=lambda: {"a": (1, None), "class": 3})


@register_config("test.outer")
@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    colors: tuple[Color, ...] = (Color.RED, Color.BLUE)
    rate: float = 0.1
    limit: float = math.inf
    name: str | None = None
    flags: list = dataclasses.field(default_factory=lambda: [True, 1, 1.0])
    derived: int = dataclasses.field(init=False, default=7)

    @register_config("test.nested")
    @dataclasses.dataclass(frozen=True)
    class Nested:
        x: int = 0


@register_config("test.needing", first_format=["old:Needing"], renamed={"third": "optional"})
@dataclasses.dataclass(frozen=True)
class Needing:
    first: int
    second: int
    optional: int = 0


def through_json(value):
    return config_from_json(json.loads(json.dumps(config_to_json(value), allow_nan=False)))


@pytest.mark.parametrize(
    "value",
    [
        Outer(),
        Outer(Inner((), {}), (), 1e-300, -math.inf, "x", []),
        Outer.Nested(3),
        MLPConfig(hidden=3),
        OptimizerConfig("sgd", 0.1 + 0.2),
        None,
        (Color.RED, "r"),
    ],
)
def test_values_come_back_equal_and_of_the_same_types(value):
    back = through_json(value)
    assert back == value
    assert repr(back) == repr(value)  # tells 1 from True and from 1.0, and tuples from lists


def test_files_hold_a_format_and_short_names():
    assert config_to_json(MLPConfig()) == {
        "format": 2,
        "class": "test.mlp",
        "fields": {"hidden": 8, "classes": 5, "blocks": 1, "dropout": 0.0},
    }
    text = json.dumps(config_to_json(Outer()))
    assert text.count("format") == 1
    assert "test_config" not in text


@pytest.mark.parametrize("value", [object(), {1: 2}, math.sin, Outer(name=b"x")])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(InputError, match="cannot be written into a configuration file"):
        config_to_json(value)


def test_classes_without_a_name_are_refused_when_written():
    @dataclasses.dataclass(frozen=True)
    class Local:
        x: int = 0

    with pytest.raises(InputError, match=r"Local has no saved name, expected .*register_config"):
        config_to_json(Local())


@pytest.mark.parametrize("name", ["dit", "test.inner"])
def test_a_name_means_one_class(name):
    with pytest.raises(
        InputError, match=f"saved name '{name}' is taken, expected another for Other"
    ):

        @register_config(name)
        class Other:
            pass


def test_every_name_leads_to_a_class_and_was_one_class_in_the_first_format():
    assert all(dataclasses.is_dataclass(class_of(name)) for name in CLASSES)
    assert len(set(CLASSES.values())) == len(CLASSES)
    later = {"video-dit", "radiance-field", "nerf-field", "hash-field", "hash-grid"}
    later |= {"compressor", "causal-autoencoder", "frame-autoencoder", "temporal-decoder"}
    later |= {"tiny-autoencoder", "kl", "vq", "fsq", "lfq", "proposal", "splats"}
    later |= {
        "occupancy",
        "ndc",
        "views",
        "surroundings",
        "dense-grid",
        "tri-plane",
        "distance-field",
    }
    later |= {"clip", "clip-text", "clip-image", "t5-encoder"}
    later |= {"text-to-image", "noise-augmentation"}
    later |= {"image-decoder", "image-prior", "code-prior", "text-to-vector"}
    later |= {"coca", "coca-text", "coca-image", "causal-text", "decoding"}
    assert set(CLASSES) - later <= set(FIRST_FORMAT.values())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"class": "gone", "fields": {}}, "c.json: dataclass 'gone' is unknown"),
        ({"class": "json:dumps", "fields": {}}, "dataclass 'json:dumps' is unknown"),
        ({"class": "test.colour", "fields": {}}, "dataclass 'test.colour' is unknown"),
        (
            {"format": 3, "class": "test.mlp", "fields": {}},
            "c.json: its format is 3, expected at most 2",
        ),
        ({"format": "x", "class": "test.mlp"}, "its format is 'x', expected at most 2"),
        (
            {"class": "test.mlp", "fields": {"hidden": 1, "clases": 2, "blocks": 1}},
            "c.json: unknown fields of MLPConfig: clases",
        ),
        (
            {"class": "test.needing", "fields": {"optional": 1}},
            "c.json: missing fields of Needing: first, second",
        ),
        ({"enum": "test.colour", "member": "GREEN"}, "expected one of RED, BLUE"),
        ({"enum": "test.mlp", "member": "RED"}, "enum 'test.mlp' is unknown"),
        ({"hidden": 1}, "is no configuration, expected a 'class'"),
        (
            {"class": "test.inner", "fields": {"sizes": {"x": 1}, "table": None}},
            "c.json: sizes: .* is no configuration",
        ),
    ],
)
def test_unfit_files_are_refused_by_name(data, message):
    with pytest.raises(InputError, match=message):
        config_from_json(data, "c.json")


def test_a_field_that_came_later_has_its_default():
    saved = {"class": "test.mlp", "fields": {"hidden": 1, "blocks": 2}}
    assert config_from_json(saved) == MLPConfig(hidden=1, blocks=2)


@pytest.mark.parametrize("name", ["test.needing", "old:Needing"])
def test_a_renamed_field_is_read_under_its_former_name(name):
    for field in ("third", "optional"):
        saved = {"class": name, "fields": {"first": 1, "second": 2, field: 3}}
        assert config_from_json(saved) == Needing(1, 2, 3)
    assert "third" not in config_to_json(Needing(1, 2, 3))["fields"]


def test_bad_values_in_files_are_refused_by_the_class_itself():
    data = config_to_json(OptimizerConfig())
    data["fields"]["name"] = "lion"
    with pytest.raises(InputError, match="name is 'lion'"):
        config_from_json(data)


def test_differences_are_named_field_by_field():
    other = Outer(Inner((1, 3)), rate=math.nan, limit=1.0)
    assert config_differences(Outer(rate=math.nan), other) == {
        "inner.sizes": ((1, 2), (1, 3)),
        "limit": (math.inf, 1.0),
    }
    assert config_differences(Outer(), Outer()) == {}
    assert config_differences(Outer(flags=[1]), Outer(flags=[True])) == {"flags": ([1], [True])}
    assert config_differences(Inner(), MLPConfig()) == {"configuration": (Inner(), MLPConfig())}
