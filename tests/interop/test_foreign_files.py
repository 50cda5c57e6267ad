"""What comes with weights of other programs: configurations, prefixes, files of other formats."""

import io
import json
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
from test_dit_weights import SMALL, P, assert_equal, like, original_tensors
from test_unet_weights import SMALL as SMALL_UNET
from test_unet_weights import like as like_unet
from test_unet_weights import random_params

from jaxgen.errors import InputError
from jaxgen.interop.dit_weights import dit_naming, dit_options, dit_params, dit_tensors
from jaxgen.interop.safetensors import TensorFile, read_safetensors, write_safetensors
from jaxgen.interop.unet_weights import unet_options, unet_params, unet_tensors
from jaxgen.spacetime.dit import DiTConfig
from jaxgen.unet.unet import UNetConfig

CONFIG = {
    "_class_name": "DiTTransformer2DModel",
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 3,
    "out_channels": 6,
    "num_layers": 11,
    "patch_size": 2,
    "num_embeds_ada_norm": 5,
    "norm_eps": 1e-5,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_zero",
    "sample_size": 6,
    "dropout": 0.0,
}


@pytest.fixture
def saved(tmp_path):
    """A function that writes a folder as diffusers leaves it, and opens it."""
    params = dit_params(original_tensors(), like(), P)

    def save(config):
        weights = tmp_path / "diffusion_pytorch_model.safetensors"
        write_safetensors(weights, dit_tensors(params, "diffusers", P))
        (tmp_path / "config.json").write_text(
            config if isinstance(config, str) else json.dumps(config)
        )
        return TensorFile(tmp_path)

    return save


def test_what_no_shape_tells_comes_from_the_configuration(saved):
    options = dit_options(saved(CONFIG))
    assert options.pop("mlp_norm_epsilon") == 1e-5
    assert DiTConfig(**options) == SMALL
    for less in ("num_attention_heads", "attention_head_dim"):
        assert dit_options(saved({**CONFIG, less: None}))["heads"] == 2
    assert dit_options(saved({"attention_head_dim": 12}))["null_class"]
    rows = dit_options(saved({**CONFIG, "num_embeds_ada_norm": 6}))
    assert (rows["num_classes"], rows["null_class"]) == (6, False)
    plain = dit_tensors(dit_params(original_tensors(), like(), P), "diffusers", P)
    assert dit_options(plain, config=CONFIG) == dit_options(saved(CONFIG))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"num_attention_heads": 3},
            "num_attention_heads is 3 and attention_head_dim 12",
        ),
        ({"num_attention_heads": 5}, "num_attention_heads is 5, expected a divisor of 24"),
        ({"num_attention_heads": "two"}, "num_attention_heads is 'two', expected a divisor of 24"),
        ({"num_layers": 12}, "num_layers is 12, expected 11"),
        ({"patch_size": 4}, "patch_size is 4, expected 2"),
        ({"in_channels": 4}, "in_channels is 4, expected 3"),
        ({"out_channels": None}, "out_channels is 3, expected 6"),
        ({"num_embeds_ada_norm": 1000}, "num_embeds_ada_norm is 1000, but the table has 6 rows"),
        ({"activation_fn": "geglu"}, "activation_fn is 'geglu', expected 'gelu-approximate'"),
        ({"norm_type": "layer_norm"}, "norm_type is 'layer_norm', expected 'ada_norm_zero'"),
        ({"_class_name": "UNet2DModel"}, "_class_name is 'UNet2DModel', expected DiTTransformer2D"),
    ],
    ids=str,
)
def test_a_configuration_that_contradicts_the_shapes(changes, fault, saved):
    with pytest.raises(InputError, match=fault) as error:
        dit_options(saved({**CONFIG, **changes}))
    assert "config.json of" in str(error.value)


def test_configurations_that_are_none_and_callers_that_contradict(saved):
    with pytest.raises(InputError, match=r"config\.json, expected JSON"):
        dit_options(saved("{"))
    with pytest.raises(InputError, match=r"config\.json: is a JSON list, expected an object"):
        dit_options(saved("[]"))
    with pytest.raises(InputError, match="says heads=2, but 4 is asked for"):
        dit_options(saved(CONFIG), heads=4)
    with pytest.raises(InputError, match="says null_class=True, but False is asked for"):
        dit_options(saved(CONFIG), null_class=False)
    with pytest.raises(InputError, match=r"heads is in no tensor, .*expected heads=N, a divisor"):
        dit_options(original_tensors())


def test_the_configuration_beside_a_u_net(tmp_path):
    config = {
        "_class_name": "UNet2DModel",
        "block_out_channels": [32, 64],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": 16,
        "norm_eps": 1e-6,
    }
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    write_safetensors(weights, {"conv_in.weight": np.zeros(1, np.float32)})
    with pytest.raises(InputError, match=r"no config\.json beside it, which says what no shape"):
        unet_options(TensorFile(weights))
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = UNetConfig(**unet_options(TensorFile(weights)))
    assert (found.head_size, found.norm_epsilon) == (16, 1e-6)
    with pytest.raises(InputError, match=r"_class_name is 'UNet2DConditionModel', expected UNet2D"):
        unet_options({**config, "_class_name": "UNet2DConditionModel"})


@pytest.mark.parametrize("prefix", ["module.", "model.", "ema_model.module."])
def test_a_prefix_of_all_names_is_left_out(prefix):
    tensors = {prefix + name: value for name, value in original_tensors().items()}
    assert dit_naming(tensors) == "original"
    assert DiTConfig(**dit_options(tensors, heads=2)) == SMALL
    wanted = dit_tensors(dit_params(original_tensors(), like(), P), "original", P)
    assert_equal(dit_tensors(dit_params(tensors, like(), P), "original", P), wanted)
    of_unet = {prefix + name: x for name, x in unet_tensors(random_params()).items()}
    found = unet_tensors(unet_params(of_unet, like_unet(SMALL_UNET)))
    assert_equal(found, unet_tensors(random_params()))


def test_of_several_networks_in_a_file_one_is_asked_for():
    both = {f"model.{name}": value for name, value in original_tensors().items()}
    both |= {f"ema.{name}": 2 * value for name, value in original_tensors().items()}
    with pytest.raises(InputError, match=r"several networks, under ema\., model\., expected one"):
        dit_params(both, like(), P)
    found = dit_tensors(dit_params(both, like(), P, prefix="ema."), "original", P)
    wanted = dit_params({k: 2 * v for k, v in original_tensors().items()}, like(), P)
    assert_equal(found, dit_tensors(wanted, "original", P))
    stray = {f"model.{name}": value for name, value in original_tensors().items()}
    stray["step"] = np.zeros(1, np.float32)
    with pytest.raises(InputError, match=r"tensor 'step' has not the prefix 'model\.'"):
        dit_options(stray, heads=2)
    assert dit_options(stray, heads=2, prefix="model.")["depth"] == SMALL.depth
    with pytest.raises(InputError, match=r"no tensor's name begins with prefix='ema\.'"):
        dit_params(stray, like(), P, prefix="ema.")


def of_numpy(save):
    buffer = io.BytesIO()
    save(buffer, np.zeros(3))
    return buffer.getvalue()


def zipped(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x" * 50)


@pytest.mark.parametrize(
    ("write", "fault"),
    [
        (lambda p: zipped(p, "archive/data.pkl", "archive/data/0"), r"a PyTorch checkpoint \(pick"),
        (lambda p: p.write_bytes(pickle.dumps({"a": 1}, 2)), "a PyTorch checkpoint or another"),
        (lambda p: p.write_bytes(of_numpy(np.savez)), r"arrays of numpy \(\.npz\); write them"),
        (lambda p: p.write_bytes(of_numpy(np.save)), "one array of numpy"),
        (lambda p: zipped(p, "dit.safetensors"), "a zip archive; unpack it first"),
        (lambda p: p.write_bytes(b"\x1f\x8b" + bytes(50)), "compressed by gzip"),
        (lambda p: p.write_bytes(b"version https://git-lfs.github.com"), "a pointer of Git LFS"),
        (lambda p: p.write_bytes(b"<!doctype html><html>"), "a page of HTML"),
        (lambda p: p.write_bytes(b"GGUF" + bytes(50)), "a GGUF file"),
    ],
)
def test_files_of_other_formats_are_called_what_they_are(write, fault, tmp_path):
    path = tmp_path / "model.pt"
    write(path)
    with pytest.raises(InputError, match=f"not a safetensors file .* but {fault}") as error:
        read_safetensors(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_folder_of_pickles_says_how_to_convert_them(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(InputError, match=r"holds pytorch_model\.bin, .*safetensors\.torch\.save"):
        TensorFile(tmp_path)


def test_metadata_and_headers_are_within_the_format(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    text = json.dumps({"__metadata__": {"step": 3}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(InputError, match="__metadata__ has 'step': 3, expected a text"):
        read_safetensors(path)
    monkeypatch.setattr("jaxgen.interop.safetensors.LARGEST_HEADER", 64)
    with pytest.raises(InputError, match=r"a header of .* bytes, expected at most 64"):
        write_safetensors(tmp_path / "n.safetensors", {"a" * 99: np.zeros(1, np.float32)})
    assert not (tmp_path / "n.safetensors").exists()
    text = b"{" + b" " * 98 + b"}"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(InputError, match=r"header would have 100 bytes, expected at most 64"):
        read_safetensors(path)


class Tensor:
    """As torch's own; the library never sees torch."""

    def __init__(self, value):
        self.shape, self.dtype = value.shape, "torch.float32"


Tensor.__module__ = "torch"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (Tensor, r"is a torch\.Tensor, expected a numpy array; x\.detach\(\)\.float"),
        (lambda x: x.tolist(), "is a list, expected a numpy array"),
    ],
)
def test_tensors_of_torch_are_called_what_they_are(change, fault):
    tensors = {name: change(value) for name, value in original_tensors().items()}
    with pytest.raises(InputError, match=fault):
        dit_params(tensors, like(), P)
    with pytest.raises(InputError, match=fault):
        dit_options(tensors, heads=2)


def test_bfloat16_is_read_and_its_raw_bytes_are_explained():
    halves = {k: v.astype(ml_dtypes.bfloat16) for k, v in original_tensors().items()}
    found = dit_tensors(dit_params(halves, like(), P), "original", P)
    wanted = {k: v.astype(np.float32) for k, v in halves.items()}
    assert_equal({k: found[k] for k in wanted}, wanted)
    raw = {name: value.view("V2") for name, value in halves.items()}
    with pytest.raises(InputError, match=r"type \|V2, expected floating.*view\('bfloat16'"):
        dit_params(raw, like(), P)
