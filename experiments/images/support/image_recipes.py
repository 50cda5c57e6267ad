"""Results that are known, by name: ``python -m experiments.images.train --recipe mnist``.

A recipe is the flags of `experiments.images.train` that lead to a result; its docstring has the
command, the figures to expect, the time and the machine. Flags beside ``--recipe`` change it.
`docs/diffusion_results.md` shows each result, and a test holds the three together.
"""

from collections.abc import Callable, Mapping
from typing import Any

from experiments.images.support.image_networks import NetworkFlags
from experiments.images.support.image_training import TrainingFlags
from experiments.shared.denoiser_sampling import SamplingFlags
from experiments.shared.experiment_config import LaunchConfig
from jaxgen.errors import InputError

Flags = dict[str, Any]
"""Fields of the program's configuration that differ from its defaults."""


def digits() -> Flags:
    """The digits of scikit-learn, 8 x 8 pixels, by a DiT of width 128 and depth 6.

    python -m experiments.images.train --recipe digits

    Figures, 1,000 images a row: Fréchet distance 0.263 of samples at guidance 0 and 0.214 at
    guidance 1, accuracy 0.932 and 0.999.
    Time: 2 min 40 s on two quiet cores (AVX-512) without a GPU, 111 s of it training.
    """
    return {"launch": LaunchConfig(workdir="runs/images_train")}


def mnist() -> Flags:
    """MNIST by a DiT of width 128 and depth 6 with 49 tokens, 8,000 updates of 64 images.

    python -m experiments.images.train --recipe mnist

    Figures, 1,000 images a row: Fréchet distance 0.206 of real test images, 0.241 of samples at
    guidance 0 and 0.247 at guidance 1, accuracy 0.997.
    Time: 78 min of training on one core (AVX-512) without a GPU. Data: the variable JAXGEN_DATA.
    """
    return {
        "launch": LaunchConfig(workdir="runs/mnist"),
        "data": "mnist",
        "training": TrainingFlags(training_steps=8000, batch_size=64),
    }


def cifar10() -> Flags:
    """CIFAR-10 by a DiT of width 192 and depth 6, 5,000 updates of 64 images, mirrored at random.

    python -m experiments.images.train --recipe cifar10

    Figures: none; colours, backgrounds and positions of the classes are learnt, shapes are not. 36
    passes over 9,000 images, where published models make hundreds over 50,000.
    Time: 1 h 56 min of one busy core without a GPU. Data: the variable JAXGEN_DATA.
    """
    return {
        "launch": LaunchConfig(workdir="runs/cifar"),
        "data": "cifar10",
        "network": NetworkFlags(width=192, depth=6),
        "training": TrainingFlags(training_steps=5000, batch_size=64, flip=True),
        "sampling": SamplingFlags(evaluate=0),
    }


RECIPES: Mapping[str, Callable[[], Flags]] = {
    "digits": digits,
    "mnist": mnist,
    "cifar10": cifar10,
}


def recipe_named(name: str) -> Flags:
    """The flags of a recipe, its own name among them.

    Raises:
      InputError: for a name that is none.
    """
    if name not in RECIPES:
        raise InputError(f"recipe is {name!r}, expected one of {', '.join(RECIPES)}")
    return {**RECIPES[name](), "recipe": name}
