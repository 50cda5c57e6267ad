"""What VideoDiT refuses: options and arrays that do not belong together."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.spacetime import VideoDiTConfig

BASE = VideoDiTConfig(in_channels=2, out_channels=2, width=24, heads=2, depth=2, num_classes=4)
Z = np.zeros((1, 4, 4, 4, 2), np.float32)
TIME, LABEL = np.zeros(1, np.float32), np.zeros(1, np.int32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_pattern": "axial"}, "attention_pattern is 'axial', expected one of joint, f"),
        ({"rotary": "cosmos"}, "rotary is 'cosmos', expected one of wan, hunyuan, cogvideox, ltx"),
        (
            {"positions": "rotary", "rotary": "hunyuan"},
            "head size is 12, expected a multiple of 32",
        ),
        ({"heads": 3, "attention_pattern": "split_heads"}, "heads are 3, expected an even number"),
        ({"window": -1}, "window is -1, expected 0 frames or more, or None"),
        (
            {"conditioning": "in_context", "causal": True},
            "'joint' with tokens of conditions in con",
        ),
        ({"max_grid": (1, 0, 2)}, r"max_grid is \(1, 0, 2\), expected three sizes"),
        ({"qk_norm": "layer"}, "qk_norm is 'layer', expected True, False or 'all_heads'"),
        ({"text_width": -1}, "text_width is -1, expected 0 or more"),
    ],
)
def test_options_that_do_not_fit_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(BASE, **change)


def test_arrays_that_do_not_fit_are_refused():
    text = np.zeros((1, 2, 3), np.float32)
    for change, given_too, message in (
        (
            {},
            {"time_B": np.zeros((1, 3), np.float32)},
            r"time has shape \(1, 3\), expected \[1\], \[1, 4\] for",
        ),
        ({}, {"text_BNC": text}, r"text has shape \(1, 2, 3\), expected None"),
        ({"text_width": 5}, {"text_BNC": text}, r"text has shape .* expected \[1, N, 5\]"),
        ({"text_width": 5, "null_text": False}, {}, r"text is None, expected tokens \[1, N, 5"),
        ({"numbers": ("fps",)}, {}, r"numbers have shape None, expected \[1, 1\]: fps"),
        (
            {"positions": "learned", "max_grid": (2, 2, 2)},
            {},
            r"a grid of \(4, 2, 2\), expected at",
        ),
        (
            {"positions": "absolute"},
            {"spacing": np.ones(3)},
            "spacing is given with positions 'absolute', expected sincos or rotary",
        ),
        (
            {"conditioning": "in_context"},
            {"time_B": np.zeros((1, 4), np.float32)},
            "times are given for frames, expected one for each example",
        ),
    ):
        config = dataclasses.replace(BASE, **change)
        arguments = {"z_BTYXC": Z, "time_B": TIME, "label_B": LABEL} | given_too
        with pytest.raises(InputError, match=message):
            jax.eval_shape(config.make_model().init, jax.random.key(0), **arguments)
