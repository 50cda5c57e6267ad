"""The network against PyTorch: loss and every gradient."""

import jax
import numpy as np
import pytest

from jaxgen.lm.nplm import NPLMConfig

torch = pytest.importorskip("torch", reason="torch (the [parity] extra) is not installed")


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("hidden", [0, 7])
def test_loss_and_gradients(direct, hidden):
    if not hidden and not direct:
        pytest.skip("no network: nothing reaches the output units")
    config = NPLMConfig(23, order=4, features=5, hidden=hidden, direct=direct)
    model = config.make_model()
    rng = np.random.default_rng(0)
    windows_BL = rng.integers(config.vocabulary_size, size=(19, config.order)).astype(np.int32)
    contexts_BL, targets_B = windows_BL[:, :-1], windows_BL[:, -1]
    boxed = model.init(jax.random.key(1), contexts_BL)["params"]
    params = jax.tree.map(
        lambda p: rng.normal(size=p.shape).astype(np.float32), jax.tree.map(np.asarray, boxed)
    )
    params = {name: getattr(value, "value", value) for name, value in params.items()}
    params["context"] = {k: getattr(v, "value", v) for k, v in params["context"].items()}

    def loss(params):
        return model.apply({"params": params}, contexts_BL, targets_B, method="loss")[0]

    value, gradients = jax.value_and_grad(loss)(params)

    names = {"C": params["context"]["C"], "b": params["b"]}
    names |= {k: params["context"][k] for k in ("H", "d") if hidden}
    names |= {k: params[k] for k in ("U", "W") if k in params}
    t = {k: torch.tensor(v, requires_grad=True) for k, v in names.items()}
    # Nearest word first, as the paper writes x.
    x = t["C"][torch.tensor(contexts_BL[:, ::-1].copy()).long()].flatten(1)
    y = t["b"]
    if hidden:
        y = y + torch.tanh(t["d"] + x @ t["H"]) @ t["U"]
    if direct:
        y = y + x @ t["W"]
    expected = torch.nn.functional.cross_entropy(y, torch.tensor(targets_B).long())
    expected.backward()

    np.testing.assert_allclose(value, expected.item(), rtol=1e-6)
    ours = {**gradients, **gradients["context"]}
    for name, tensor in t.items():
        np.testing.assert_allclose(
            ours[name], tensor.grad.numpy(), rtol=1e-4, atol=1e-6, err_msg=name
        )
