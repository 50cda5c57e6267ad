"""The PyTorch side of benchmarks/nerf.py: hash grids, fields, compositing, a plain training step.

Run by benchmarks/nerf.py, which talks to it over pipes; not a script of its own. Written after the
published equations; weights are by jaxgen's paths.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.functional import relu, softplus

Tensor = torch.Tensor
Run = Callable[[], np.ndarray]

LEVELS, TABLE, COARSEST, FINEST = 8, 2**17, 16, 512
PRIMES = (1, 2654435761 - 2**32, 805459861)
"""In 32 bits with a sign: products and exclusive ors have the same bits."""
NEAR, FAR, BOX, PADDING = 2.0, 6.0, 1.5, 0.003
MAX_LOG_DENSITY = 15.0


def grid_levels() -> list[tuple[float, int, int, int, bool]]:
    """Scale, places, first row, rows and whether it is hashed, of each level."""
    step, start, found = math.log2(FINEST / COARSEST) / (LEVELS - 1), 0, []
    for level in range(LEVELS):
        scale = float(np.float32(2 ** (level * step) * COARSEST - 1))
        places = math.ceil(scale) + 1
        hashed = places**3 > TABLE
        rows = TABLE if hashed else -(-(places**3) // 8) * 8
        found.append((scale, places, start, rows, hashed))
        start += rows
    return found


GRID = grid_levels()


def corners(x: Tensor, level: tuple) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and weights of the eight corners around points."""
    scale, places, start, rows, hashed = level
    place = x.T * scale + 0.5
    cell = place.floor()
    share = place - cell
    factors = PRIMES if hashed else (1, places, places**2)
    part = [(c * f, (c + 1) * f) for c, f in zip(cell.int(), factors, strict=True)]
    side = [(1 - s, s) for s in share]
    for i, j, k in itertools.product((0, 1), repeat=3):
        a, b, c = part[0][i], part[1][j], part[2][k]
        index = (a ^ b ^ c) & (rows - 1) if hashed else (a + b + c) % rows
        yield index + start, side[0][i] * side[1][j] * side[2][k]


def encode(table: Tensor, x: Tensor) -> Tensor:
    """Features [N, L F]: all corners looked up at once."""
    found = [list(corners(x, level)) for level in GRID]
    rows = torch.stack([torch.stack([r for r, _ in level], 1) for level in found], 1)
    weights = torch.stack([torch.stack([w for _, w in level], 1) for level in found], 1)
    return torch.einsum("nlkf,nlk->nlf", table[rows], weights).flatten(1)


class EncodeByHand(torch.autograd.Function):
    """The same corner by corner; the gradient of the table alone, by ``index_add_``."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, x: Tensor) -> Tensor:
        ctx.found = [list(corners(x, level)) for level in GRID]
        ctx.shape = table.shape
        out = torch.empty(len(x), LEVELS, table.shape[1])
        for i, level in enumerate(ctx.found):
            features = torch.zeros(len(x), table.shape[1])
            for rows, weights in level:
                features.addcmul_(table.index_select(0, rows), weights[:, None])
            out[:, i] = features
        return out.flatten(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        sums = torch.zeros(ctx.shape)
        for i, level in enumerate(ctx.found):
            own = gradient.unflatten(1, (LEVELS, -1))[:, i].contiguous()
            for rows, weights in level:
                sums.index_add_(0, rows, own * weights[:, None])
        return sums, None


def harmonics(direction: Tensor) -> Tensor:
    """Real spherical harmonics to degree 4."""
    x, y, z = direction.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    root = {n: math.sqrt(n / math.pi) for n in (1, 3, 5, 7, 15, 35)}
    third, last = math.sqrt(2) / 8 * root[35], math.sqrt(42) / 8 / math.sqrt(math.pi)
    parts = [
        torch.full_like(x, root[1] / 2),
        *(-root[3] / 2 * y, root[3] / 2 * z, -root[3] / 2 * x),
        *(root[15] / 2 * x * y, -root[15] / 2 * y * z, root[5] / 4 * (3 * zz - 1)),
        *(-root[15] / 2 * x * z, root[15] / 4 * (xx - yy)),
        third * y * (yy - 3 * xx),
        math.sqrt(7) / 2 * root[15] * x * y * z,
        last * y * (1 - 5 * zz),
        root[7] / 4 * z * (5 * zz - 3),
        last * x * (1 - 5 * zz),
        math.sqrt(7) / 4 * root[15] * z * (xx - yy),
        third * x * (3 * yy - xx),
    ]
    return torch.stack(parts, -1)


def waves(x: Tensor, octaves: int) -> Tensor:
    """The positional encoding."""
    angles = x[..., None, :] * 2.0 ** torch.arange(octaves)[:, None]
    both = torch.stack([angles.sin(), angles.cos()], -2)
    return torch.cat([x, both.flatten(-3)], -1)


class HashField:
    """A hash grid and two small MLPs."""

    bounded = True

    def __init__(self, weights: dict[str, Tensor], by_hand: bool):
        self.w, self.encode = weights, EncodeByHand.apply if by_hand else encode

    def geometry(self, x: Tensor) -> Tensor:
        """What the density's MLP returns."""
        inside = ((x + BOX) / (2 * BOX)).clamp(0, 1)
        hidden = relu(self.encode(self.w["grid/table"], inside) @ self.w["density_hidden/kernel"])
        return hidden @ self.w["density_output/kernel"]

    def density_of(self, x: Tensor, geometry: Tensor) -> Tensor:
        """Density, 0 outside of the box."""
        density = geometry[:, 0].clamp(max=MAX_LOG_DENSITY).exp()
        return torch.where((x.abs() <= BOX).all(-1), density, 0.0)

    def density(self, x: Tensor) -> Tensor:
        """Density alone."""
        return self.density_of(x, self.geometry(x))

    def __call__(self, x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Density and colour."""
        geometry = self.geometry(x)
        hidden = torch.cat([harmonics(direction), geometry], -1)
        for name in ("colour_hidden_0", "colour_hidden_1"):
            hidden = relu(hidden @ self.w[f"{name}/kernel"])
        colour = torch.sigmoid(hidden @ self.w["colour_output/kernel"])
        return self.density_of(x, geometry), colour


class NetworkField:
    """The original network."""

    bounded = False

    def __init__(self, weights: dict[str, Tensor]):
        self.w = weights

    def layer(self, name: str, x: Tensor) -> Tensor:
        """A linear layer."""
        return torch.addmm(self.w[f"{name}/bias"], x, self.w[f"{name}/kernel"])

    def __call__(self, x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Density and colour."""
        encoded = hidden = waves(x, 10)
        for i in range(8):
            hidden = relu(self.layer(f"layers_{i}", hidden))
            if i == 4:
                hidden = torch.cat([encoded, hidden], -1)
        joined = torch.cat([self.layer("bottleneck", hidden), waves(direction, 4)], -1)
        colour = torch.sigmoid(self.layer("output", relu(self.layer("colour_layer", joined))))
        return softplus(self.layer("density_layer", hidden)[:, 0] - 1), colour


def span(origin: Tensor, direction: Tensor, bounded: bool) -> tuple[Tensor, Tensor]:
    """Distances [R, 1] where rays begin and end."""
    begin = torch.full_like(origin[:, :1], NEAR)
    end = torch.full_like(begin, FAR)
    if not bounded:
        return begin, end
    sides = torch.stack([(-BOX - origin) / direction, (BOX - origin) / direction])
    entry = sides.amin(0).amax(-1, keepdim=True).clamp(min=0)
    leave = sides.amax(0).amin(-1, keepdim=True)
    begin = torch.minimum(torch.maximum(entry, begin), end)
    return begin, torch.minimum(torch.maximum(leave, begin), end)


def weights_of(density: Tensor, edges: Tensor) -> Tensor:
    """Weights of samples."""
    depth = density * edges.diff()
    passed = torch.cat([torch.zeros_like(depth[:, :1]), depth[:, :-1].cumsum(-1)], -1)
    return torch.exp(-passed) * -torch.expm1(-depth)


def place(edges: Tensor, weights: Tensor, samples: int) -> Tensor:
    """Edges of intervals that hold the same share of the weights."""
    weights = weights + PADDING
    sums = weights.cumsum(-1)
    sums = torch.cat([torch.zeros_like(sums[:, :1]), sums / sums[:, -1:]], -1)
    share = (torch.arange(1, samples) / samples).expand(len(edges), -1).contiguous()
    bins = (torch.searchsorted(sums, share, right=True) - 1).clamp(0, weights.shape[1] - 1)
    low, high = sums.gather(1, bins), sums.gather(1, bins + 1)
    part = ((share - low) / (high - low).clamp(min=1e-30)).clamp(0, 1)
    begin = edges.gather(1, bins)
    inner = begin + part * (edges.gather(1, bins + 1) - begin)
    return torch.cat([edges[:, :1], inner, edges[:, -1:]], -1)


def make_run(
    task: dict[str, Any], weights: dict[str, np.ndarray], arrays: dict[str, np.ndarray]
) -> Run:
    """A run of torch, whose result is what is compared."""
    form, shape = task["form"], task["shape"]
    by_hand = task["side"] == "torch by hand"
    given = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if form == "product":
        left = torch.randn(shape["product"], shape["product"])
        out = torch.empty_like(left)
        return lambda: torch.mm(left, left, out=out).numpy()
    if form.startswith("encode"):
        table = torch.from_numpy(weights["hash step/fine/grid/table"]).requires_grad_()
        return make_encoding(form, table, given, EncodeByHand.apply if by_hand else encode)
    own = {
        path.removeprefix(f"{form}/"): torch.from_numpy(array).requires_grad_()
        for path, array in weights.items()
        if path.startswith(form)
    }
    return make_training(own, given, task, by_hand)


def make_encoding(form: str, table: Tensor, given: dict[str, Tensor], encode: Any) -> Run:
    """``run() -> features``, or the gradient of the table."""

    @torch.no_grad()
    def forward() -> np.ndarray:
        return encode(table, given["points"]).numpy()

    def both() -> np.ndarray:
        table.grad = None
        (encode(table, given["points"]) * given["target"]).sum().backward()
        return table.grad.numpy()

    return forward if form == "encode" else both


def make_training(
    weights: dict[str, Tensor], given: dict[str, Tensor], task: dict[str, Any], by_hand: bool
) -> Run:
    """``run() -> losses`` of updates by Adam on the squared error of colours."""
    two = task["form"] == "network step"
    even, placed = (32, 32) if two else (64, 20)
    rays = task["shape"]["rays"] // (2 if two else 1)
    origin, direction, truth = (given[k][:rays] for k in ("origin", "direction", "colour"))
    rate = task["shape"]["learning rate"]
    optimizer = torch.optim.Adam(weights.values(), rate, (0.9, 0.99), 1e-8, fused=True)

    def named(name: str) -> Any:
        own = {k.removeprefix(name): v for k, v in weights.items() if k.startswith(name)}
        return NetworkField(own) if two else HashField(own, by_hand)

    def losses_of() -> Tensor:
        fine = named("fine/")
        begin, end = span(origin, direction, fine.bounded)

        def points(edges: Tensor) -> Tensor:
            distance = begin + (edges[:, :-1] + edges.diff() / 2) * (end - begin)
            return (origin[:, None] + distance[..., None] * direction[:, None]).flatten(0, 1)

        def shade(field: Any, edges: Tensor) -> tuple[Tensor, Tensor]:
            count = edges.shape[1] - 1
            towards = direction[:, None].expand(-1, count, -1).flatten(0, 1)
            density, colour = field(points(edges), towards)
            weights = weights_of(density.view(-1, count), begin + edges * (end - begin))
            seen = (weights[..., None] * colour.view(-1, count, 3)).sum(1)
            return seen + 1 - weights.sum(-1, keepdim=True), weights

        edges, loss = torch.linspace(0, 1, even + 1).expand(rays, -1).contiguous(), 0.0
        if two:
            colour, found = shade(named("coarse/"), edges)
            loss = (colour - truth).square().mean()
            inner = place(edges, found.detach(), placed + 1)[:, 1:-1]
            edges = torch.cat([edges, inner], -1).sort(-1).values
        else:
            with torch.no_grad():
                density = fine.density(points(edges)).view(rays, even)
                found = weights_of(density, begin + edges * (end - begin))
            edges = place(edges, found, placed)
        return loss + (shade(fine, edges)[0] - truth).square().mean()

    def run() -> np.ndarray:
        losses = []
        for _ in range(task["shape"]["updates"]):
            loss = losses_of()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return np.array(losses)

    return run
