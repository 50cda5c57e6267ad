"""CLIP against transformers' models with the same weights, and their folders in both directions."""

import json

import jax
import numpy as np
import pytest

from jaxgen.encoders import CLIPConfig, make_encoder, resize_and_crop
from jaxgen.interop.safetensors import TensorFile, write_safetensors
from jaxgen.pixels import to_unit
from jaxgen.pretrained import load_clip, save_clip

torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")
transformers = pytest.importorskip(
    "transformers", reason="transformers (the [parity] extra) is not installed"
)

SHARED = {"num_hidden_layers": 2, "layer_norm_eps": 1e-4}
TEXT = {
    **SHARED,
    "vocab_size": 40,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_attention_heads": 3,
    "max_position_embeddings": 9,
    "projection_dim": 10,
    "bos_token_id": 30,
}
IMAGE = {
    **SHARED,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "image_size": 12,
    "patch_size": 4,
    "projection_dim": 10,
}
IDS = np.array([[30, 5, 39, 0, 39, 39], [30, 39, 1, 2, 3, 4], [30, 7, 8, 9, 10, 39]], np.int32)
"""Beginning 30, end 39 at places 2, 1 and 5, and what follows it; under the rule of eos_token_id 2
the largest id counts, which is the same place."""


def randomised(model, seed=0):
    """Every parameter random; transformers initialises biases and positions with zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "logit_scale":
                fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
                parameter.normal_(0, fan_in**-0.5, generator=generator)
    return model.eval()


def text_model(kind="CLIPTextModel", **changes):
    config = transformers.CLIPTextConfig(**{**TEXT, **changes})
    return randomised(getattr(transformers, kind)(config))


def clip_model(**changes):
    config = transformers.CLIPConfig(
        text_config={**TEXT, "eos_token_id": 39, **changes},
        vision_config={**IMAGE, **changes},
        projection_dim=10,
    )
    return randomised(transformers.CLIPModel(config))


def pixels(images_BYXC, config):
    """Their input: pixels from 0 to 1 less the mean, by the deviation, channels first."""
    normalised = ((images_BYXC + 1) / 2 - np.array(config.mean)) / np.array(config.deviation)
    return torch.tensor(normalised.transpose(0, 3, 1, 2).astype(np.float32))


def images(count=3, side=12):
    return np.random.default_rng(1).uniform(-1, 1, (count, side, side, 3)).astype(np.float32)


def difference(found, expected):
    expected = expected.detach().numpy()
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("end", [2, 39])
def test_states_and_pooled_texts(end, activation, tmp_path):
    model = text_model(eos_token_id=end, hidden_act=activation)
    model.save_pretrained(tmp_path)
    config, params = load_clip(tmp_path)
    assert config.end_id == (None if end == 2 else end)
    assert config.projection is None
    encode = make_encoder(config, params)
    states_BLD, mask_BL, pooled_BD = encode(IDS)
    with torch.no_grad():
        expected = model(torch.tensor(IDS).long())
    assert difference(states_BLD, expected.last_hidden_state) < 1e-4
    assert difference(pooled_BD, expected.pooler_output) < 1e-4
    assert np.asarray(mask_BL).all()


def test_masked_padding_and_a_projection(tmp_path):
    model = text_model("CLIPTextModelWithProjection", eos_token_id=39)
    model.save_pretrained(tmp_path)
    config, params = load_clip(tmp_path)
    mask_BL = np.array([[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1] * 6])
    found = make_encoder(config, params)(IDS, mask_BL)
    with torch.no_grad():
        expected = model(torch.tensor(IDS).long(), attention_mask=torch.tensor(mask_BL))
    kept = mask_BL == 1
    states = np.asarray(found.states_BLD)[kept]
    assert difference(states, expected.last_hidden_state[torch.tensor(kept)]) < 1e-4
    assert difference(found.pooled_BD, expected.text_embeds) < 1e-4
    np.testing.assert_array_equal(found.mask_BL, kept)


def test_both_towers(tmp_path):
    """Unit vectors to 1e-5, states and logits; and back, bit by bit, to a model that agrees."""
    model = clip_model()
    model.save_pretrained(tmp_path / "theirs")
    config, params = load_clip(tmp_path / "theirs")
    image_BYXC = images()

    def theirs(model):
        with torch.no_grad():
            inputs = {"pixel_values": pixels(image_BYXC, config.image)}
            return model(torch.tensor(IDS).long(), **inputs, output_hidden_states=True)

    expected = theirs(model)
    network = config.make_model()
    image_BD, text_BD, scale = jax.jit(network.apply)({"params": params}, image_BYXC, IDS)
    np.testing.assert_allclose(image_BD, expected.image_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(text_BD, expected.text_embeds.numpy(), atol=1e-5)
    logits = scale * image_BD @ text_BD.T
    assert difference(logits, expected.logits_per_image) < 1e-4
    states = make_encoder(config.image, params["image"])(image_BYXC).states_BLD
    assert difference(states, expected.vision_model_output.last_hidden_state) < 1e-4

    save_clip(tmp_path / "ours", config, params)
    before, after = TensorFile(tmp_path / "theirs"), TensorFile(tmp_path / "ours")
    assert set(after) == set(before)
    assert all(after[name].tobytes() == before[name].tobytes() for name in before)
    again = transformers.CLIPModel.from_pretrained(tmp_path / "ours").eval()
    np.testing.assert_array_equal(theirs(again).logits_per_image, expected.logits_per_image)
    assert load_clip(tmp_path / "ours").config == config


@pytest.mark.parametrize("kind", ["CLIPTextModel", "CLIPVisionModel"])
def test_a_lone_tower_has_its_prefix_or_not(kind, tmp_path):
    """transformers 5 leaves it out; older files have it, and position_ids."""
    text = kind == "CLIPTextModel"
    if text:
        model, prefix = text_model(eos_token_id=39), "text_model."
    else:
        config = transformers.CLIPVisionConfig(**IMAGE)
        model, prefix = randomised(transformers.CLIPVisionModel(config)), "vision_model."
    model.save_pretrained(tmp_path)
    config, params = load_clip(tmp_path)
    tensors = dict(TensorFile(tmp_path))
    assert not any(name.startswith(prefix) for name in tensors)
    old = {prefix + name: tensor for name, tensor in tensors.items()}
    old[f"{prefix}embeddings.position_ids"] = np.arange(9)[None]
    write_safetensors(tmp_path / "model.safetensors", old)
    again = load_clip(tmp_path)
    assert again.config == config
    inputs = IDS if text else images()
    found = make_encoder(config, params)(inputs)
    for one, other in zip(found, make_encoder(*again)(inputs), strict=True):
        np.testing.assert_array_equal(one, other)
    with torch.no_grad():
        given = torch.tensor(IDS).long() if text else pixels(inputs, config)
        expected = model(given)
    assert difference(found.pooled_BD, expected.pooler_output) < 1e-4
    save_clip(tmp_path / "ours", config, params)
    back = getattr(transformers, kind).from_pretrained(tmp_path / "ours").eval()
    np.testing.assert_array_equal(back(given).pooler_output.detach(), expected.pooler_output)


def test_preparation_is_their_processors():
    """To the rounding to bytes, of 1 part in 255, after each of two passes."""
    processor = transformers.models.clip.image_processing_pil_clip.CLIPImageProcessorPil(
        size={"shortest_edge": 12}, crop_size={"height": 12, "width": 12}
    )
    rng = np.random.default_rng(0)
    for sides in ((30, 41), (53, 24), (12, 12), (7, 9)):
        smooth = rng.integers(0, 256, (3, 3, 3)).repeat(20, 0).repeat(20, 1)[: sides[0], : sides[1]]
        image = (smooth // 2 + rng.integers(0, 128, (*sides, 3))).astype(np.uint8)
        expected = np.asarray(processor(image)["pixel_values"][0])
        found = np.asarray(resize_and_crop(image[None], 12))[0]
        theirs = pixels(found[None], CLIPConfig().image)[0].numpy()
        assert np.abs(theirs - expected).max() * 0.26 * 255 < 2
    np.testing.assert_array_equal(resize_and_crop(image[None], 7)[0], to_unit(image)[:, 1:8])


def test_old_files_have_text_config_dict(tmp_path):
    """Where both are given, the second holds."""
    model = clip_model()
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    wanted = load_clip(tmp_path).config
    fields["text_config_dict"] = {**fields["text_config"]}
    fields["text_config"] = {**fields["text_config"], "num_attention_heads": 1}
    path.write_text(json.dumps(fields))
    assert load_clip(tmp_path).config == wanted
