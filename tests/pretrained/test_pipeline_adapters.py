"""Files of low-rank adapters in each naming, against sums of the tensors they change."""

import functools
import json

import numpy as np
import pytest
from tiny_pipelines import pipeline

from jaxgen.errors import InputError
from jaxgen.interop.clip_weights import clip_tensors
from jaxgen.interop.safetensors import write_safetensors
from jaxgen.interop.unet_weights import unet_tensors
from jaxgen.pretrained import load_adapters

PLACE = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"
CHANGED = {
    "unet": [f"{PLACE}.to_k", f"{PLACE}.to_out.0", "down_blocks.0.resnets.0.conv1"],
    "text_encoder": ["text_model.encoder.layers.0.self_attn.q_proj"],
}
RANK = 2


def tensors_of(pipeline):
    encoder = clip_tensors(pipeline.encoder.params, "transformers")
    return {"unet": unet_tensors(pipeline.network.params), "text_encoder": encoder}


@functools.cache
def weights():
    return tensors_of(pipeline())


def pairs():
    """Random factors of the tensors that are changed: [out, r] and [r, in, ...]."""
    generator, known, found = np.random.default_rng(0), weights(), {}
    for part, places in CHANGED.items():
        for place in places:
            shape = known[part][f"{place}.weight"].shape
            sides = (1,) * (len(shape) - 2)
            up = generator.normal(size=(shape[0], RANK, *sides)).astype(np.float32)
            down = generator.normal(size=(RANK, *shape[1:])).astype(np.float32)
            found[part, place] = up, down
    return found


ENDS = {
    "peft": ("lora_B", "lora_A"),
    "bare": ("lora_B", "lora_A"),
    "before": ("lora.up", "lora.down"),
    "first": ("lora.up", "lora.down"),
    "kohya": ("lora_up", "lora_down"),
}
SETTINGS = {
    "unet.r": RANK,
    "unet.lora_alpha": 1,
    "unet.rank_pattern": {},
    "unet.alpha_pattern": {"attn2.to_k": 5.0},
    "text_encoder.lora_alpha": 3,
    "text_encoder.use_rslora": True,
}
"""Of the header: scales 5/2 of one place, 1/2 of others of the network, 3/sqrt(2) of texts."""


def named(naming):
    """The file's tensors."""
    tensors = {}
    for (part, place), (up, down) in pairs().items():
        stem, (ups, downs) = f"{part}.{place}", ENDS[naming]
        if naming == "kohya":
            short = {"unet": "lora_unet_", "text_encoder": "lora_te1_"}[part]
            stem = short + place.replace(".", "_")
            tensors[f"{stem}.alpha"] = np.float32(1.0)
        if naming == "bare":
            stem = stem.removeprefix("unet.")
        if naming == "first" and "conv" not in place:
            stem, _, layer = stem.removesuffix(".0").rpartition(".")
            stem += ".processor." * (part == "unet") or "."
            stem += f"{layer.replace('q_proj', 'to_q')}_lora"
            ups, downs = "up", "down"
        tensors |= {f"{stem}.{ups}.weight": up, f"{stem}.{downs}.weight": down}
    return tensors


@pytest.mark.parametrize(
    ("naming", "settings"),
    [*((naming, None) for naming in ENDS), ("peft", SETTINGS)],
    ids=[*ENDS, "header"],
)
def test_products_are_added_by_name(naming, settings, tmp_path):
    header = {"lora_adapter_metadata": json.dumps(settings)} if settings else None
    write_safetensors(tmp_path / "adapters.safetensors", named(naming), metadata=header)
    changed = load_adapters(pipeline(), tmp_path / "adapters.safetensors", scale=0.3)
    found, factors = tensors_of(changed), pairs()
    for part, before in weights().items():
        for name, value in before.items():
            if (part, name.removesuffix(".weight")) not in factors:
                np.testing.assert_array_equal(found[part][name], value)
                continue
            scale = 0.5 if naming == "kohya" else 1.0
            if settings:
                scale = 3 / np.sqrt(2) if part == "text_encoder" else 2.5 if "to_k" in name else 0.5
            up, down = (x.astype(np.float64) for x in factors[part, name.removesuffix(".weight")])
            product = np.einsum("or,r...->o...", up.reshape(-1, RANK), down)
            expected = value + 0.3 * scale * product
            np.testing.assert_allclose(found[part][name], expected, atol=1e-5)
    again = load_adapters(changed, tmp_path / "adapters.safetensors", scale=-0.3)
    for name, value in unet_tensors(again.network.params).items():
        np.testing.assert_allclose(value, weights()["unet"][name], atol=1e-5)


def test_a_network_that_peft_wrote(tmp_path):
    """Its alpha is in a file beside it."""
    name = CHANGED["unet"][0]
    up, down = pairs()["unet", name]
    stem = f"base_model.model.{name}"
    tensors = {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
    write_safetensors(tmp_path / "adapter_model.safetensors", tensors)
    beside = tmp_path / "adapter_config.json"
    for alpha, scale in ((None, 1.0), (6, 3.0)):
        if alpha is not None:
            beside.write_text(json.dumps({"r": RANK, "lora_alpha": alpha}))
        changed = tensors_of(load_adapters(pipeline(), tmp_path))["unet"]
        added = changed[f"{name}.weight"] - weights()["unet"][f"{name}.weight"]
        np.testing.assert_allclose(added, scale * up @ down, atol=1e-5)
    faults = {
        r"adapter_config\.json, expected JSON": "{",
        r"adapter_config\.json is a JSON list, expected an object of fields": "[]",
        r"adapter_config\.json: use_dora is True, expected False": '{"use_dora": true}',
        r"unet\.lora_alpha is 'x', expected a number": '{"lora_alpha": "x"}',
    }
    for fault, text in faults.items():
        beside.write_text(text)
        with pytest.raises(InputError, match=fault):
            load_adapters(pipeline(), tmp_path)


def test_files_of_other_models(tmp_path):
    tensors = named("peft")
    other = {name.replace("down_blocks.1", "down_blocks.7"): x for name, x in tensors.items()}
    half = {name: x for name, x in tensors.items() if "to_k.lora_B" not in name}
    wide = {
        name: np.concatenate([x, x], 1) if "to_k.lora_A" in name else x
        for name, x in tensors.items()
    }
    two = named("kohya")
    two[next(name for name in two if name.endswith(".alpha"))] = np.ones(2, np.float32)
    names = r"unet\.down_blocks\.7\.\S+, \S+, \S+ and 1 more"
    faults = {
        "a.safetensors matches nothing in the model: x, y, expected names such as": {
            "x": np.ones(1, np.float32),
            "y": np.ones(1, np.float32),
        },
        f"has tensors that are not of the model: {names}": other,
        "a.safetensors has no tensors, expected pairs of an adapter": {},
        r"a.safetensors: alpha of \S+ has shape \[2\], expected one number": two,
        rf"{PLACE}\.to_k\.weight has no up, expected both of a pair": half,
        rf"unet\.{PLACE}\.to_k\.weight: shapes \(2, 16\) and \(4, 2\), expected a rank": wide,
    }
    for fault, content in faults.items():
        write_safetensors(tmp_path / "a.safetensors", content)
        with pytest.raises(InputError, match=fault):
            load_adapters(pipeline(), tmp_path / "a.safetensors")
