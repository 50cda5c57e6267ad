"""The network of benchmarks/nplm.py in PyTorch: three ways to write one training step.

* ``textbook``: modules, autograd and a fused optimizer, as most people would write it.
* ``compiled``: the same through ``torch.compile``.
* ``by_hand``: the gradient written out over chunks of 128 examples in preallocated buffers, with
  ``addmm_`` to accumulate: the fastest that we could write.

Run by benchmarks/nplm.py, which talks to it over pipes; not a script of its own.
"""

import torch
from torch import nn
from torch.nn import functional as F

CHUNK = 128


class Network(nn.Module):
    """y = b + U tanh(d + H x) (+ W x), as in jaxgen.lm.nplm."""

    def __init__(self, vocabulary: int, order: int, features: int, hidden: int, direct: bool):
        super().__init__()
        self.C = nn.Embedding(vocabulary, features)
        self.H = nn.Linear((order - 1) * features, hidden)
        self.U = nn.Linear(hidden, vocabulary)
        self.W = nn.Linear((order - 1) * features, vocabulary, bias=False) if direct else None
        nn.init.normal_(self.C.weight, std=0.1)

    def forward(self, contexts: torch.Tensor) -> torch.Tensor:
        x = self.C(contexts).flatten(1)
        y = self.U(torch.tanh(self.H(x)))
        return y if self.W is None else y + self.W(x)


def make_stepper(variant: str, shape: dict, learning_rate: float):
    """``run(contexts [K, B, n-1], targets [K, B]) -> last loss``: K steps of plain SGD."""
    torch.manual_seed(0)
    network = Network(**shape)
    if variant == "by_hand":
        return ByHand(network, learning_rate).run
    optimizer = torch.optim.SGD(network.parameters(), lr=learning_rate, fused=True)

    def loss_of(contexts, targets):
        return F.cross_entropy(network(contexts), targets)

    if variant == "compiled":
        loss_of = torch.compile(loss_of)

    def run(contexts, targets):
        for context, target in zip(contexts, targets, strict=True):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(context, target)
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    return run


class ByHand:
    """Loss and gradient of `Network` in one pass, no array larger than [CHUNK, V] but U's own."""

    def __init__(self, network: Network, learning_rate: float):
        with torch.no_grad():
            self.C = network.C.weight.detach().clone()
            self.H, self.d = network.H.weight.detach().clone(), network.H.bias.detach().clone()
            self.K, self.b = network.U.weight.detach().clone(), network.U.bias.detach().clone()
            if network.W is not None:  # one output kernel for [a, x]
                self.K = torch.cat([self.K, network.W.weight.detach()], 1)
        self.direct = network.W is not None
        self.lr = learning_rate
        units = self.K.shape[0]
        self.y = torch.empty(CHUNK, units)
        self.dK, self.db = torch.empty_like(self.K), torch.empty_like(self.b)

    @torch.no_grad()
    def run(self, contexts, targets):
        for context, target in zip(contexts, targets, strict=True):
            loss = self.step(context, target)
        return loss

    def step(self, context, target):
        count, width = len(target), self.C.shape[1]
        x = self.C[context].reshape(count, -1)
        a = torch.tanh(torch.addmm(self.d, x, self.H.T))
        z = torch.cat([a, x], 1) if self.direct else a
        dz, loss = torch.empty_like(z), 0.0
        self.dK.zero_()
        self.db.zero_()
        for start in range(0, count, CHUNK):
            part = slice(start, min(start + CHUNK, count))
            rows = part.stop - part.start
            y = self.y[:rows]
            torch.addmm(self.b, z[part], self.K.T, out=y)
            top = y.amax(1, keepdim=True)
            wanted = y.gather(1, target[part, None])
            y.sub_(top).exp_()
            total = y.sum(1, keepdim=True)
            loss += float((total.log() + top - wanted).sum())
            y.scatter_add_(1, target[part, None], -total)  # P - [target], times the normaliser
            scale = 1 / (total * count)
            torch.mm(y, self.K, out=dz[part])
            dz[part].mul_(scale)
            self.dK.addmm_(y.T, z[part] * scale)
            self.db.addmv_(y.T, scale[:, 0])
        da = dz[:, : a.shape[1]] * (1 - a * a)
        dx = da @ self.H
        if self.direct:
            dx += dz[:, a.shape[1] :]
        self.K.add_(self.dK, alpha=-self.lr)
        self.b.add_(self.db, alpha=-self.lr)
        self.H.addmm_(da.T, x, alpha=-self.lr)
        self.d.add_(da.sum(0), alpha=-self.lr)
        self.C.index_add_(0, context.reshape(-1), dx.reshape(-1, width), alpha=-self.lr)
        return loss / count


def make_run(variant: str, shape: dict, batch: int, steps: int, rate: float):
    """``run()``: `steps` steps."""
    generator = torch.Generator().manual_seed(1)
    words, length = shape["vocabulary"], shape["order"] - 1
    contexts = torch.randint(words, (steps, batch, length), generator=generator)
    targets = torch.randint(words, (steps, batch), generator=generator)
    run = make_stepper(variant, shape, rate)
    return lambda: run(contexts, targets)


def make_product(size: int):
    """``run()``: one [size, size] matrix product."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    out = torch.empty(size, size)
    return lambda: torch.mm(left, right, out=out)
