"""CoCa under open_clip's names, against a model of torch's own layers.

The model has the modules that ``coca_model.py`` and ``transformer.py`` of open_clip name, so its
state dict is such a checkpoint. open_clip itself is no requirement; 3.3.0 was tried once with the
same result (docs/text_conditions.md).
"""

import json

import jax
import numpy as np
import pytest

from jaxgen.encoders import CoCaConfig
from jaxgen.errors import InputError
from jaxgen.interop.coca_weights import coca_tensors
from jaxgen.interop.safetensors import TensorFile, write_safetensors
from jaxgen.nn import parameter_count
from jaxgen.pretrained import load_coca, save_coca
from jaxgen.pretrained.encoder_folders import abstract_encoder_params

torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")
nn = torch.nn

W, LENGTH, VOCABULARY, SIDE, PATCH, QUERIES = 64, 7, 20, 8, 4, 6


class Block(nn.Module):
    def __init__(self, width, heads, to_context=False):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        if to_context:
            self.ln_1_kv = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x, context=None, mask=None):
        y = self.ln_1(x)
        z = y if context is None else self.ln_1_kv(context)
        x = x + self.attn(y, z, z, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


def parameter(*shape):
    return nn.Parameter(torch.empty(shape))


def blocks(width, heads, count=2, **options):
    return nn.ModuleList(Block(width, heads, **options) for _ in range(count))


class Pooler(nn.Module):
    def __init__(self, width, context):
        super().__init__()
        self.query = parameter(QUERIES, width)
        self.attn = nn.MultiheadAttention(width, 4, kdim=context, vdim=context, batch_first=True)
        self.ln_q, self.ln_k = nn.LayerNorm(width), nn.LayerNorm(context)

    def forward(self, x):
        x, q = self.ln_k(x), self.ln_q(self.query).expand(len(x), -1, -1)
        return self.attn(q, x, x, need_weights=False)[0]


class OpenCLIPCoCa(nn.Module):
    def __init__(self, image_width):
        super().__init__()
        v, t, d = nn.Module(), nn.Module(), nn.Module()
        v.conv1 = nn.Conv2d(3, image_width, PATCH, PATCH, bias=False)
        v.class_embedding = parameter(image_width)
        v.positional_embedding = parameter(1 + (SIDE // PATCH) ** 2, image_width)
        v.ln_pre, v.ln_post = nn.LayerNorm(image_width), nn.LayerNorm(W)
        v.transformer = nn.Module()
        v.transformer.resblocks = blocks(image_width, image_width // 64)
        v.attn_pool, v.proj = Pooler(W, image_width), parameter(W, W)
        t.token_embedding = nn.Embedding(VOCABULARY, W)
        t.cls_emb, t.positional_embedding = parameter(W), parameter(LENGTH + 1, W)
        t.transformer = nn.Module()
        t.transformer.resblocks = blocks(W, 2)
        t.ln_final, t.text_projection = nn.LayerNorm(W), parameter(W, W)
        d.resblocks, d.cross_attn = blocks(W, 2), blocks(W, 2, to_context=True)
        d.ln_final, d.text_projection = nn.LayerNorm(W), parameter(W, VOCABULARY)
        self.visual, self.text, self.text_decoder, self.logit_scale = v, t, d, parameter()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for each in self.parameters():
                fan_in = each[0].numel() if each.ndim > 1 else 4
                each.normal_(0, fan_in**-0.5, generator=generator)

    def encode_image(self, image):
        v = self.visual
        x = v.conv1(image).flatten(2).permute(0, 2, 1)
        x = torch.cat([v.class_embedding.expand(len(x), 1, -1), x], 1)
        x = v.ln_pre(x + v.positional_embedding)
        for block in v.transformer.resblocks:
            x = block(x)
        x = v.ln_post(v.attn_pool(x))
        return x[:, 0] @ v.proj, x[:, 1:]

    def encode_text(self, ids, shifted):
        t = self.text
        x = torch.cat([t.token_embedding(ids), t.cls_emb.expand(len(ids), 1, -1)], 1)
        x = x + t.positional_embedding
        seen, one = ids != 0, torch.ones(len(ids), 1, dtype=bool)
        seen = torch.cat([one, seen] if shifted else [seen, one], 1)
        mask = torch.full((LENGTH + 1,) * 2, -torch.inf).triu(1)
        mask = mask + torch.where(seen, 0.0, -torch.inf)[:, None]
        for block in t.transformer.resblocks:
            x = block(x, mask=mask.repeat_interleave(2, 0))
        return t.ln_final(x[:, -1]) @ t.text_projection, x[:, :-1]

    def forward(self, image, ids, shifted):
        (image, tokens), (text, x) = self.encode_image(image), self.encode_text(ids, shifted)
        x = x[:, :-1]
        mask = torch.full((LENGTH - 1,) * 2, -torch.inf).triu(1)
        d = self.text_decoder
        for block, cross in zip(d.resblocks, d.cross_attn, strict=True):
            x = cross(block(x, mask=mask), tokens)
        return unit(image), unit(text), (d.ln_final(x) @ d.text_projection).detach().numpy()


def unit(x):
    return (x / x.norm(dim=-1, keepdim=True)).detach().numpy()


IDS = np.array([[2, 4, 5, 3, 0, 0, 0], [2, 6, 7, 8, 9, 10, 3], [2, 3, 0, 0, 0, 0, 0]], np.int32)
IMAGES = np.random.default_rng(1).uniform(-1, 1, (3, SIDE, SIDE, 3)).astype(np.float32)


def write_checkpoint(folder, image_width, shifted):
    """A folder as open_clip's; and the model."""
    model = OpenCLIPCoCa(image_width).eval()
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    write_safetensors(folder / "open_clip_model.safetensors", tensors)
    common = {"context_length": LENGTH, "vocab_size": VOCABULARY, "width": W, "heads": 2}
    vision = {"image_size": SIDE, "patch_size": PATCH, "width": image_width, "layers": 2}
    vision |= {"attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True}
    text = {**common, "layers": 2, "embed_cls": True, "output_tokens": True}
    text |= {} if shifted else {"correct_cls_mask": True}
    fields = {"embed_dim": W, "vision_cfg": vision, "text_cfg": text, "custom_text": True}
    fields |= {"multimodal_cfg": {**common, "layers": 2}}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": fields}))
    return model, tensors


@pytest.mark.parametrize(
    ("image_width", "shifted"),
    [(128, True), pytest.param(64, False, marks=pytest.mark.slow)],
    ids=["own widths, published mask", "one width, corrected mask"],
)
def test_forward_pass_and_back(image_width, shifted, tmp_path):
    """Vectors and logits; and the same tensors, bit by bit."""
    model, tensors = write_checkpoint(tmp_path, image_width, shifted)
    config, params = load_coca(tmp_path)
    assert config.text.shifted_mask == shifted
    assert ("visual.attn_pool.attn.in_proj_weight" in tensors) == (image_width == W)
    normalised = ((IMAGES + 1) / 2 - np.array(config.image.mean)) / np.array(config.image.deviation)
    given = torch.tensor(normalised.transpose(0, 3, 1, 2).astype(np.float32))
    expected = model(given, torch.tensor(IDS).long(), shifted)
    found = jax.jit(config.make_model().apply)({"params": params}, IMAGES, IDS, IDS != 0)
    np.testing.assert_allclose(found.image_BP, expected[0], atol=1e-5)
    np.testing.assert_allclose(found.text_BP, expected[1], atol=1e-5)
    seen_BL = IDS[:, :-1] != 0
    np.testing.assert_allclose(
        np.asarray(found.logits_BLV)[seen_BL], expected[2][seen_BL], atol=1e-4
    )
    other = unit(model.encode_text(torch.tensor(IDS).long(), not shifted)[0])
    assert np.abs(other - expected[1]).max() > 1e-2  # so the mask matters

    save_coca(tmp_path / "ours", config, params)
    after = TensorFile(tmp_path / "ours")
    assert set(after) == set(tensors)
    assert all(after[name].tobytes() == tensors[name].tobytes() for name in tensors)
    assert load_coca(tmp_path / "ours").config == config


PUBLISHED = {
    "logit_scale": (),
    "text.cls_emb": (512,),
    "text.positional_embedding": (77, 512),
    "text.text_projection": (512, 512),
    "text.token_embedding.weight": (49408, 512),
    "text.ln_final.bias": (512,),
    "text.transformer.resblocks.11.attn.in_proj_weight": (1536, 512),
    "text.transformer.resblocks.11.mlp.c_fc.weight": (2048, 512),
    "visual.class_embedding": (768,),
    "visual.positional_embedding": (50, 768),
    "visual.proj": (512, 512),
    "visual.conv1.weight": (768, 3, 32, 32),
    "visual.ln_pre.weight": (768,),
    "visual.ln_post.weight": (512,),
    "visual.transformer.resblocks.11.attn.in_proj_bias": (2304,),
    "visual.transformer.resblocks.11.attn.out_proj.weight": (768, 768),
    "visual.attn_pool.query": (256, 512),
    "visual.attn_pool.attn.q_proj_weight": (512, 512),
    "visual.attn_pool.attn.k_proj_weight": (512, 768),
    "visual.attn_pool.attn.v_proj_weight": (512, 768),
    "visual.attn_pool.attn.in_proj_bias": (1536,),
    "visual.attn_pool.ln_k.weight": (768,),
    "text_decoder.text_projection": (512, 49408),
    "text_decoder.resblocks.11.ln_1.weight": (512,),
    "text_decoder.cross_attn.11.attn.in_proj_weight": (1536, 512),
    "text_decoder.cross_attn.11.ln_1_kv.bias": (512,),
    "text_decoder.cross_attn.11.mlp.c_proj.weight": (512, 2048),
    "text_decoder.ln_final.weight": (512,),
}
"""Some tensors of coca_ViT-B-32, which has 629."""


def test_published_sizes():
    """Counted in open_clip 3.3.0."""
    for name, parameters in (("ViT-B-32", 253_560_065), ("ViT-L-14", 638_450_177)):
        assert parameter_count(abstract_encoder_params(CoCaConfig.named(name))) == parameters


@pytest.mark.slow
def test_published_names():
    like = abstract_encoder_params(CoCaConfig.named("ViT-B-32"))
    zeros = jax.tree.map(lambda x: np.broadcast_to(np.uint8(0), x.shape), like)
    shapes = {name: x.shape for name, x in coca_tensors(zeros, patch=32).items()}
    assert {name: shapes.get(name) for name in PUBLISHED} == PUBLISHED
    assert len(shapes) == 629


def test_what_is_no_coca_is_refused(tmp_path):
    _, tensors = write_checkpoint(tmp_path, 128, shifted=True)
    config, params = load_coca(tmp_path)
    for change, message in (
        ({"shared_pooler": False}, "shared_pooler is False, expected True"),
        ({"frames": 3}, "frames is 3, expected None"),
    ):
        image = {**vars(config.image), **change}
        with pytest.raises(InputError, match=message):
            save_coca(
                tmp_path / "ours", CoCaConfig(config.text, type(config.image)(**image)), params
            )
    (tmp_path / "open_clip_config.json").unlink()
    with pytest.raises(InputError, match=r"no open_clip_config\.json beside it, expected one"):
        load_coca(tmp_path)
    less = {name: x for name, x in tensors.items() if name != "text.cls_emb"}
    write_safetensors(tmp_path / "open_clip_model.safetensors", less)
    with pytest.raises(InputError, match=r"no tensor 'text\.cls_emb', expected weights of open_cl"):
        load_coca(tmp_path)
