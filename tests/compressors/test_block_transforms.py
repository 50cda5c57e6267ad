"""Linear transforms of blocks: orthonormal, the best of their kind, energy conserved."""

import numpy as np
import pytest
from scipy.fft import dctn

from jaxgen.compressors.block_transforms import (
    OPPONENT_COLOURS,
    cosine_basis,
    least_squares_kernel,
    principal_basis,
    second_moments,
    zonal_basis,
)
from jaxgen.compressors.causal_layers import CausalConv
from jaxgen.errors import InputError

PATCH = (2, 4, 3)


@pytest.fixture(scope="module")
def blocks():
    """Smooth blocks in colour: sums of a few low frequencies and noise."""
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(500, *PATCH, 3))
    smooth = noise.mean((1, 2), keepdims=True) * 4 + noise.mean(-1, keepdims=True)
    return (smooth + 0.3 * noise).reshape(500, -1)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_cosine_basis_is_orthonormal_and_is_scipys_transform(channels):
    basis = cosine_basis(PATCH, channels)
    np.testing.assert_allclose(basis.T @ basis, np.eye(len(basis)), atol=1e-12)
    block = np.random.default_rng(1).normal(size=(*PATCH, channels))
    colours = OPPONENT_COLOURS if channels == 3 else np.eye(1)
    expected = dctn(block @ colours.T, axes=(0, 1, 2), norm="ortho")
    np.testing.assert_allclose(block.ravel() @ basis, expected.ravel(), atol=1e-12)


def test_the_zone_holds_the_largest_coefficients(blocks):
    moments = second_moments([blocks[:200], blocks[200:]])
    np.testing.assert_allclose(moments, blocks.T @ blocks / 500, atol=1e-12)
    power = ((blocks @ cosine_basis(PATCH, 3)) ** 2).mean(0)
    basis = zonal_basis(moments, PATCH, 3, 5)
    np.testing.assert_allclose(((blocks @ basis) ** 2).mean(0), np.sort(power)[::-1][:5])


def test_principal_components_lose_what_their_eigenvalues_say_and_less_than_any_zone(blocks):
    moments = second_moments([blocks])

    def lost(basis):
        return float(((blocks - blocks @ basis @ basis.T) ** 2).sum(1).mean())

    for kept in (1, 5, 20):
        found = lost(principal_basis(moments, kept))
        assert found == pytest.approx(np.linalg.eigvalsh(moments)[:-kept].sum())
        assert found < lost(zonal_basis(moments, PATCH, 3, kept))
    assert lost(principal_basis(moments, len(moments))) < 1e-20


def test_bad_input_is_named(blocks):
    with pytest.raises(InputError, match="there are no blocks, expected one or more"):
        second_moments([])
    moments = second_moments([blocks])
    for kept in (0, 73):
        with pytest.raises(InputError, match=f"kept is {kept}, expected 1 to 72"):
            principal_basis(moments, kept)
        with pytest.raises(InputError, match=f"kept is {kept}, expected 1 to 72"):
            zonal_basis(moments, PATCH, 3, kept)


@pytest.mark.parametrize("first_frame", [True, False])
def test_least_squares_finds_the_kernel_that_made_the_blocks(first_frame):
    generator = np.random.default_rng(2)
    kernel = generator.normal(size=(3, 3, 3, 2, 5))
    pairs = []
    for frames in (4, 1, 6):
        z = generator.normal(size=(frames, 5, 4, 2))
        layer = CausalConv(5, first_frame=first_frame)
        weights = {"params": {"kernel": kernel.astype(np.float32), "bias": np.zeros(5, np.float32)}}
        blocks = layer.apply(weights, z[None].astype(np.float32))[0]
        pairs.append((z, np.asarray(blocks, np.float64)))
    found = least_squares_kernel(iter(pairs), first_frame=first_frame, ridge=1e-9)
    np.testing.assert_allclose(found, kernel, atol=1e-4)
    with pytest.raises(InputError, match="there are no videos, expected one or more"):
        least_squares_kernel([])
