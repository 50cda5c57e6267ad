"""Files of low-rank adapters in each naming, against sums of the tensors they change."""

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


def weights():
    encoder = clip_tensors(pipeline().encoder.params, "transformers")
    return {"unet": unet_tensors(pipeline().network.params), "text_encoder": encoder}


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


def named(naming):
    """The file's tensors, and the scale that they have."""
    tensors = {}
    for (part, place), (up, down) in pairs().items():
        short = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[part]
        stem = short + place.replace(".", "_") if naming == "kohya" else f"{part}.{place}"
        ends = {
            "kohya": ("lora_up", "lora_down"),
            "peft": ("lora_B", "lora_A"),
            "before": ("lora.up", "lora.down"),
        }[naming]
        tensors |= {f"{stem}.{ends[0]}.weight": up, f"{stem}.{ends[1]}.weight": down}
        if naming == "kohya":
            tensors[f"{stem}.alpha"] = np.float32(1.0)
    return tensors, 0.5 if naming == "kohya" else 1.0


@pytest.mark.parametrize("naming", ["peft", "before", "kohya"])
def test_products_are_added_by_name(naming, tmp_path):
    tensors, scale = named(naming)
    write_safetensors(tmp_path / "adapters.safetensors", tensors)
    changed = load_adapters(pipeline(), tmp_path / "adapters.safetensors", scale=0.3)
    encoder = clip_tensors(changed.encoder.params, "transformers")
    found = {"unet": unet_tensors(changed.network.params), "text_encoder": encoder}
    factors = pairs()
    for part, before in weights().items():
        for name, value in before.items():
            if (part, name.removesuffix(".weight")) not in factors:
                np.testing.assert_array_equal(found[part][name], value)
                continue
            up, down = (x.astype(np.float64) for x in factors[part, name.removesuffix(".weight")])
            product = np.einsum("or,r...->o...", up.reshape(-1, RANK), down)
            expected = value + 0.3 * scale * product
            np.testing.assert_allclose(found[part][name], expected, atol=1e-5)
    again = load_adapters(changed, tmp_path / "adapters.safetensors", scale=-0.3)
    for name, value in unet_tensors(again.network.params).items():
        np.testing.assert_allclose(value, weights()["unet"][name], atol=1e-5)


def test_files_of_other_models(tmp_path):
    tensors, _ = named("peft")
    other = {name.replace("down_blocks.1", "down_blocks.7"): x for name, x in tensors.items()}
    half = {name: x for name, x in tensors.items() if "to_k.lora_B" not in name}
    wide = {
        name: np.concatenate([x, x], 1) if "to_k.lora_A" in name else x
        for name, x in tensors.items()
    }
    names = r"unet\.down_blocks\.7\.\S+, \S+, \S+ and 1 more"
    faults = {
        "a.safetensors matches nothing in the model: x, y, expected names such as": {
            "x": np.ones(1, np.float32),
            "y": np.ones(1, np.float32),
        },
        f"has tensors that are not of the model: {names}": other,
        rf"{PLACE}\.to_k\.weight has no up, expected both of a pair": half,
        rf"unet\.{PLACE}\.to_k\.weight: shapes \(2, 16\) and \(4, 2\), expected a rank": wide,
    }
    for fault, content in faults.items():
        write_safetensors(tmp_path / "a.safetensors", content)
        with pytest.raises(InputError, match=fault):
            load_adapters(pipeline(), tmp_path / "a.safetensors")
