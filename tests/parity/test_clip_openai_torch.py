"""CLIP under OpenAI's and open_clip's names, against a model of torch's own layers.

The model has the modules that ``clip/model.py`` names (`torch.nn.MultiheadAttention` with its
stacked ``in_proj_weight``), so its state dict is such a checkpoint.
"""

import jax
import numpy as np
import pytest

from jaxgen.encoders import CLIPConfig, CLIPImageConfig, CLIPTextConfig
from jaxgen.interop.safetensors import TensorFile, write_safetensors
from jaxgen.pretrained import load_clip, save_clip

torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")

WIDTH, LENGTH, VOCABULARY, SIDE, PATCH, P = 128, 7, 20, 8, 4, 6


class QuickGELU(torch.nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(torch.nn.Module):
    def __init__(self, heads, act):
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(WIDTH, heads)
        self.ln_1, self.ln_2 = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)
        self.mlp = torch.nn.Sequential()
        self.mlp.add_module("c_fc", torch.nn.Linear(WIDTH, 4 * WIDTH))
        self.mlp.add_module("gelu", act)
        self.mlp.add_module("c_proj", torch.nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x, mask=None):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


def parameter(*shape):
    return torch.nn.Parameter(torch.empty(*shape))


def blocks(act):
    module = torch.nn.Module()
    module.resblocks = torch.nn.ModuleList(Block(WIDTH // 64, act) for _ in range(2))
    return module


class OpenAI(torch.nn.Module):
    def __init__(self, act):
        super().__init__()
        self.token_embedding = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.positional_embedding = parameter(LENGTH, WIDTH)
        self.transformer, self.ln_final = blocks(act), torch.nn.LayerNorm(WIDTH)
        self.text_projection, self.logit_scale = parameter(WIDTH, P), parameter(1)
        self.visual = torch.nn.Module()
        self.visual.conv1 = torch.nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.visual.class_embedding = parameter(WIDTH)
        self.visual.positional_embedding = parameter(1 + (SIDE // PATCH) ** 2, WIDTH)
        self.visual.ln_pre, self.visual.ln_post = (torch.nn.LayerNorm(WIDTH) for _ in range(2))
        self.visual.transformer, self.visual.proj = blocks(act), parameter(WIDTH, P)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for each in self.parameters():
                fan_in = each[0].numel() if each.ndim > 1 else 4
                each.normal_(0, fan_in**-0.5, generator=generator)

    def encode_text(self, ids):
        x = (self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]).swapaxes(0, 1)
        mask = torch.full((len(x), len(x)), -torch.inf).triu(1)
        for block in self.transformer.resblocks:
            x = block(x, mask)
        x = self.ln_final(x).swapaxes(0, 1)
        return x[torch.arange(len(x)), ids.argmax(-1)] @ self.text_projection

    def encode_image(self, image):
        v = self.visual
        x = v.conv1(image).flatten(2).permute(2, 0, 1)
        x = torch.cat([v.class_embedding.expand(1, x.shape[1], -1), x])
        x = v.ln_pre(x + v.positional_embedding[:, None])
        for block in v.transformer.resblocks:
            x = block(x)
        return v.ln_post(x[0]) @ v.proj


IDS = np.array([[18, 3, 4, 19, 0, 0], [18, 19, 5, 6, 0, 0]], np.int32)
IMAGES = np.random.default_rng(1).uniform(-1, 1, (2, SIDE, SIDE, 3)).astype(np.float32)


def unit(x):
    return (x / x.norm(dim=-1, keepdim=True)).detach().numpy()


def checkpoint(model, text_prefix=""):
    """The state dict as OpenAI's and open_clip's files hold it: a scale without axes."""
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    tensors["logit_scale"] = tensors["logit_scale"].reshape(())
    own = ("visual.", "logit_scale")
    return {n if n.startswith(own) else text_prefix + n: x for n, x in tensors.items()}


SLOW = pytest.mark.slow


@pytest.mark.parametrize("case", [pytest.param("openai", marks=SLOW), "open_clip", "told"])
def test_forward_pass(case, tmp_path):
    """OpenAI's archive; open_clip's with its configuration; names alone, and the activation."""
    quick = case == "openai"
    model = OpenAI(QuickGELU() if quick else torch.nn.GELU()).eval()
    tensors = checkpoint(model, "text." if case == "open_clip" else "")
    path = tmp_path / "open_clip_model.safetensors"
    if quick:
        archive = ("input_resolution", "context_length", "vocab_size")
        write_safetensors(path, tensors | dict.fromkeys(archive, np.array(1)))
    else:
        write_safetensors(path, tensors)
    if case == "open_clip":
        shared = {"width": WIDTH, "mlp_units": 4 * WIDTH, "depth": 2, "heads": 2}
        shared |= {"activation": "gelu", "projection": P}
        config = CLIPConfig(
            CLIPTextConfig(**shared, vocabulary=VOCABULARY, length=LENGTH),
            CLIPImageConfig(**shared, size=SIDE, patch=PATCH),
        )
        _, params = load_clip(path, activation="gelu")
        save_clip(tmp_path / "ours", config, params, naming="open_clip")
        after = TensorFile(tmp_path / "ours")
        assert set(after) == set(tensors)
        assert all(after[name].tobytes() == tensors[name].tobytes() for name in tensors)
        path = tmp_path / "ours"
    config, params = load_clip(path, activation="gelu" if case == "told" else None)
    assert config.text.activation == ("quick_gelu" if quick else "gelu")
    image_BD, text_BD, _ = jax.jit(config.make_model().apply)({"params": params}, IMAGES, IDS)
    np.testing.assert_allclose(
        text_BD, unit(model.encode_text(torch.tensor(IDS).long())), atol=1e-5
    )
    normalised = ((IMAGES + 1) / 2 - np.array(config.image.mean)) / np.array(config.image.deviation)
    given = torch.tensor(normalised.transpose(0, 3, 1, 2).astype(np.float32))
    np.testing.assert_allclose(image_BD, unit(model.encode_image(given)), atol=1e-5)
