"""What the README tells a person to type."""

import pathlib
import re

import numpy as np

README = (pathlib.Path(__file__).parents[2] / "README.md").read_text(encoding="utf8")


LANGUAGE, DIFFUSION = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_first_look_runs():
    # One device, as on a laptop; the tests have eight.
    code = LANGUAGE.replace('make_mesh("data=-1")', "make_mesh(devices=jax.devices()[:1])")
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["words"].shape == names["log_p"].shape == (8, 5)
    assert (names["log_p"][:, :-1] >= names["log_p"][:, 1:]).all()


def test_diffusion_without_a_network_samples_what_it_should():
    names: dict = {}
    exec(compile(DIFFUSION, "README.md", "exec"), names)
    x_BD = np.asarray(names["x"])
    assert x_BD.shape == (1000, 2)
    np.testing.assert_allclose(x_BD.mean(0), [1, 2], atol=0.15)
    np.testing.assert_allclose(np.cov(x_BD.T), [[1, 0.8], [0.8, 1]], atol=0.15)


def test_links_lead_somewhere():
    root = pathlib.Path(__file__).parents[2]
    for page in (root / "README.md", *(root / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
