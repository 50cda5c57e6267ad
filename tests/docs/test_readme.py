"""What the README tells a person to type."""

import pathlib
import re

README = (pathlib.Path(__file__).parents[2] / "README.md").read_text(encoding="utf8")


def test_the_first_look_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    # One device, as on a laptop; the tests have eight.
    code = code.replace('make_mesh("data=-1")', "make_mesh(devices=jax.devices()[:1])")
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["words"].shape == names["log_p"].shape == (8, 5)
    assert (names["log_p"][:, :-1] >= names["log_p"][:, 1:]).all()


def test_links_lead_somewhere():
    root = pathlib.Path(__file__).parents[2]
    for page in (root / "README.md", *(root / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
