"""What a video transformer sends, as a table; and what devices that are not there would hold."""

import jax
import pytest

from experiments.shared.launch import LaunchConfig
from experiments.video import abstract_layout, communication
from jaxgen.errors import InputError
from jaxgen.parallel import make_mesh


def test_tables_of_a_video_transformer(tmp_path, capsys):
    """Four exchanges of tokens for heads a block and evaluation, eight in training; two sums."""
    width, batch, length, steps = 32, 4, 2 * 2 * 4, 2
    with jax.set_mesh(make_mesh("data=2,sequence=2,model=2")):
        figures = communication.main(
            communication.Config(
                launch=LaunchConfig(workdir=str(tmp_path / "run"), devices=8),
                width=width,
                depth=1,
                heads=4,
                batch_size=batch,
                size="2x4x8",
                sampler="ddim",
                steps=steps,
            )
        )
        with pytest.raises(InputError, match="size has 2x5x8, expected multiples of the patch 1x2"):
            communication.main(communication.Config(size="2x5x8"))
    name = f"guided samples, ddim, {steps} steps"
    tokens = 2 * (batch // 2) * (length // 2)  # of a device, each example twice
    assert figures[f"{name}/model"] == steps * 2 * 4 * tokens * width
    samples = 4 * 4 * (batch // 2) * (2 * 4 * 8 // 2)  # gathered at the end
    assert figures[f"{name}/sequence"] == steps * 4 * 4 * tokens * width // 2 + samples
    # Packs have room for two clips: as many tokens as there.
    printed = capsys.readouterr().out
    exchanges = [line for line in printed.splitlines() if line.startswith("| all-to-all")]
    assert f"{8 * 4 * tokens * width // 2:,}" in exchanges[0]
    assert (tmp_path / "run" / "communication.md").read_text().count("### ") == 2


def test_what_256_devices_would_hold(tmp_path, capsys):
    config = abstract_layout.Config(
        launch=LaunchConfig(workdir=str(tmp_path / "run")),
        width=512,
        depth=1,
        size="4x16x16",
    )
    with jax.set_mesh(make_mesh("data=1", jax.devices()[:1])):
        found = abstract_layout.main(config)
        with pytest.raises(InputError, match="has 16 places but there are 256 devices"):
            abstract_layout.main(abstract_layout.Config(places="model=16"))
    assert found["tokens of a clip"] == 4 * found["tokens of a device"] == 256
    assert found["parameters"] > found["parameters in parts"] > 0.99 * found["parameters"]
    assert found["bytes of moments and average"] == pytest.approx(
        3 * found["bytes of parameters"], rel=1e-4
    )
    text = " ".join((tmp_path / "run" / "layout.md").read_text().split())
    row = "512, 16, 3, 32 | fsdp, model, -, - | 32, 4, 3, 32 |"
    assert f"| blocks_0/attention/qkv/kernel | {row}" in text
