"""Invalid options are rejected in one line; valid ones work, with float64 enabled too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.conditioning.guidance import labels_and_nulls
from jaxgen.diffusion.conditioning.image_to_image import with_known
from jaxgen.diffusion.conditioning.inpainting import RePaint, Replacement
from jaxgen.diffusion.conditioning.reconstruction import masked
from jaxgen.diffusion.distillation.progressive import matching_loss
from jaxgen.diffusion.exact import gaussian_denoiser
from jaxgen.diffusion.objectives.decoders import continuous_decoder
from jaxgen.diffusion.objectives.likelihood import log_likelihood
from jaxgen.diffusion.objectives.losses import diffusion_loss
from jaxgen.diffusion.objectives.variational import continuous_bound
from jaxgen.diffusion.other_corruptions.cold import Blur, cold_sample
from jaxgen.diffusion.other_corruptions.gamma_noise import (
    GammaAncestral,
    gamma_noise_loss,
    initial_gamma_noise,
)
from jaxgen.diffusion.process.derived_schedules import Rescaled
from jaxgen.diffusion.process.learned_schedule import LearnedScheduleConfig
from jaxgen.diffusion.process.schedules import (
    CosineSchedule,
    KarrasSchedule,
    RectifiedFlow,
    SigmoidSchedule,
)
from jaxgen.diffusion.process.step_levels import make_steps
from jaxgen.diffusion.process.table_schedules import CustomTable, DiscreteSchedule
from jaxgen.diffusion.samplers import (
    DDIM,
    Ancestral,
    DPMSolver,
    Heun,
    LangevinCorrector,
    SASolver,
    StochasticKarras,
    UniPC,
)
from jaxgen.diffusion.samplers.sampling import initial_noise, sample
from jaxgen.errors import InputError

COSINE, KEY = CosineSchedule(), jax.random.key(0)
ZERO = DiscreteSchedule(zero_terminal_snr=True)
DENOISER = gaussian_denoiser(np.zeros(2), np.array([[1.0, 0.8], [0.8, 1.0]]))
X = jnp.array([[0.1, 0.2], [0.3, -0.4], [0.0, 1.0]])
LEVELS = make_steps(COSINE, 6)


def run(sampler, z, index_B=None, levels=LEVELS):
    return sample(sampler, DENOISER, z, levels, KEY, index_B)


def network(z, time):
    return jnp.zeros_like(z)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: run(LangevinCorrector(UniPC()), X),
            "predictor is UniPC, expected one without memory",
        ),
        (
            lambda: run(LangevinCorrector(Replacement(DPMSolver(2), X * 0, X)), X),
            "predictor is Replacement, expected one without memory",
        ),
        (
            lambda: diffusion_loss(network, X, KEY, schedule=COSINE, weighting="snr"),
            r"weighting is 'snr', expected a Weighting, such as SNR\(\), or weighting_named",
        ),
        (
            lambda: diffusion_loss(network, X, KEY, schedule=COSINE, times="uniform"),
            r"times is 'uniform', expected a Times, such as Uniform\(\)",
        ),
        (
            lambda: diffusion_loss(network, X, KEY, schedule="cosine", target="e"),
            r"schedule is 'cosine', expected a Schedule, such as CosineSchedule\(\)",
        ),
        (
            lambda: gamma_noise_loss(network, X, KEY, schedule=COSINE, times="uniform"),
            r"times is 'uniform', expected a Times, such as Uniform\(\)",
        ),
        (
            lambda: diffusion_loss(network, X, KEY, schedule="cosine"),
            r"schedule is 'cosine', expected a Schedule, such as CosineSchedule\(\)",
        ),
        (
            lambda: make_steps(COSINE, float("nan")),
            "count is nan, expected a whole number of steps",
        ),
        (
            lambda: make_steps(COSINE, float("inf")),
            "count is inf, expected a whole number of steps",
        ),
        (lambda: make_steps(COSINE, "10"), "count is 10, expected a whole number of steps"),
        (
            lambda: LangevinCorrector(LangevinCorrector(DDIM())),
            "expected a sampler that is no corrector",
        ),
        (
            lambda: masked(jnp.ones((4, 4)))(jnp.ones((2, 4, 4, 1))),
            r"known has shape \(4, 4\) for data of shape \(2, 4, 4, 1\)",
        ),
        (
            lambda: with_known(DENOISER, jnp.ones((3,)), X)(X, COSINE.at(0.5)),
            r"known has shape \(3,\) for data of shape \(3, 2\)",
        ),
        (
            lambda: run(Ancestral(), X, jnp.array([0])),
            r"index_B has shape \(1,\) for 3 examples, expected \(3,\)",
        ),
        (
            lambda: diffusion_loss(network, X, KEY, schedule=COSINE, index_B=jnp.arange(2)),
            r"index_B has shape \(2,\) for 3 examples",
        ),
        (
            lambda: RePaint(DDIM(), X, X).table(LEVELS),
            "jump_length is 10 for 6 steps: nothing would be resampled, expected less than 6",
        ),
        (
            lambda: log_likelihood(DENOISER, X, KEY, schedule=COSINE, limits=(20.0, -20.0)),
            r"limits is \(20\.0, -20\.0\), expected a range",
        ),
        (
            lambda: log_likelihood(DENOISER, X, KEY, schedule=COSINE, limits=(5.0, 5.0)),
            r"limits is \(5\.0, 5\.0\), expected a range",
        ),
        (
            lambda: initial_gamma_noise(KEY, jnp.arange(2), (3,), LEVELS, theta=-1.0),
            r"theta is -1\.0, expected a finite number > 0",
        ),
        (lambda: SigmoidSchedule(tau=np.inf), "tau is inf, expected a finite number > 0"),
        (lambda: SigmoidSchedule(start=-np.inf), "start is -inf, end is 3.0, expected start < end"),
        (lambda: KarrasSchedule(rho=np.inf), "rho is inf, expected a finite number > 0"),
        (lambda: Rescaled(COSINE, "vpp"), "scaling is 'vpp', expected one of vp, ve, flow"),
        (
            lambda: LearnedScheduleConfig(scaling="xx"),
            "scaling is 'xx', expected one of vp, ve, flow",
        ),
        (
            lambda: labels_and_nulls(np.array([0]), 0),
            "null_label is 0, expected one after the classes",
        ),
    ],
)
def test_what_cannot_be_meant(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("schedule", [RectifiedFlow(), DiscreteSchedule()])
def test_a_bound_needs_finite_ends(schedule):
    bound = functools.partial(continuous_bound, decoder=continuous_decoder)
    with pytest.raises(InputError, match="expected a schedule between finite ones"):
        bound(DENOISER, X, KEY, schedule=schedule)
    with pytest.raises(InputError, match="log-SNR inf at t=0"):
        jax.jit(lambda x: bound(DENOISER, x, KEY, schedule=schedule))(X)


@pytest.mark.parametrize("target", ["e", "score"])
@pytest.mark.parametrize(
    "loss",
    [
        lambda target: gamma_noise_loss(network, X, KEY, schedule=ZERO, target=target),
        lambda target: matching_loss(
            lambda w: DENOISER, lambda w: DENOISER, X, KEY, schedule=ZERO, target=target
        ),
    ],
)
def test_no_loss_predicts_noise_at_zero_snr(loss, target):
    with pytest.raises(InputError, match="at zero SNR the noise says nothing of the data"):
        loss(target)


def test_null_labels_beyond_a_type_of_bytes():
    labels_B, nulls_B = labels_and_nulls(np.array([0, 255], np.uint8), 256)
    assert nulls_B.tolist() == [256, 256]
    assert labels_B.tolist() == [0, 255]


def test_tables_are_hashable_and_may_end_without_data():
    betas = [0.1, 0.2, 0.5, 1.0]
    table = CustomTable.from_betas(betas)
    assert table.log_snrs[-1] == -np.inf
    assert hash(CustomTable([3.0, 2.0, 1.0])) == hash(CustomTable((3.0, 2.0, 1.0)))
    np.testing.assert_allclose(table.at(1.0).a, 0)
    with pytest.raises(InputError, match=r"betas\[1\] is 1\.0"):
        CustomTable.from_betas([0.1, 1.0, 0.2])


SAMPLERS = {
    "ddim": DDIM(0.5),
    "karras": StochasticKarras(COSINE, churn=3.0),
    "sa": SASolver(),
    "gamma": GammaAncestral(),
    "heun": Heun(),
    "langevin": LangevinCorrector(Ancestral()),
    "replacement": Replacement(DDIM(1.0), jnp.array([1.0, 0.0]), X),
    "repaint": RePaint(DDIM(1.0), jnp.array([1.0, 0.0]), X, jump_length=2, resamplings=2),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_are_the_same_with_float64_enabled(name):
    """Noise is float32 whatever the default type is, so a key means the same numbers."""
    levels = make_steps(COSINE, 6, final="first")

    def draw():
        z = initial_noise(KEY, jnp.arange(3), (2,), levels)
        return run(SAMPLERS[name], z, jnp.arange(3), levels)

    found = draw()
    with jax.enable_x64(True):
        again = draw()
    assert again.dtype == jnp.float32
    np.testing.assert_allclose(found, again, atol=1e-5)


AROUND = {"replacement": Replacement, "RePaint": functools.partial(RePaint, jump_length=2)}


@pytest.mark.parametrize("around", AROUND)
def test_data_in_float64_are_put_into_latents_of_float32(around):
    levels = make_steps(COSINE, 4)
    with jax.enable_x64(True):
        x = np.asarray(X, np.float64)
        sampler = AROUND[around](DDIM(), np.array([1.0, 0.0]), x)
        z = initial_noise(KEY, jnp.arange(len(x)), (2,), levels)
        found = sample(sampler, DENOISER, z, levels, KEY)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found[:, 0], x[:, 0], atol=1e-5)


def test_likelihood_losses_and_blur_with_float64_enabled():
    def figures():
        likelihoods = [
            log_likelihood(DENOISER, X, KEY, schedule=COSINE, trace=trace)
            for trace in ("rademacher", "gaussian", "exact")
        ]
        images = jax.random.normal(KEY, (2, 8, 8, 1), jnp.float32)
        blurred = cold_sample(lambda z, t: z, Blur(), images, 3)
        loss_B, _ = diffusion_loss(network, X, KEY, schedule=COSINE)
        return [*likelihoods, blurred, loss_B]

    before = jax.jit(figures)()
    with jax.enable_x64(True):
        after = jax.jit(figures)()
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
