"""N-gram models in plain dictionaries, straight from the formulas, for comparison."""

import collections
import functools
import itertools
import math

import numpy as np

FALLBACK = (0.5, 1.0, 1.5)


def random_text(seed, length, vocabulary_size):
    """A text with frequent and rare words, some of the vocabulary left out, with repetition."""
    rng = np.random.default_rng(seed)
    weight = 1.0 / np.arange(1, vocabulary_size + 1) ** 1.2
    weight[-1] = 0.0
    words = rng.choice(vocabulary_size, size=length, p=weight / weight.sum())
    third = length // 3
    words[-third // 2 :] = words[: len(words[-third // 2 :])]
    return words.astype(np.int32)


def some_contexts(seed, tokens, order, vocabulary_size):
    """Contexts from the text, made up ones, and ones with missing words on the left."""
    rng = np.random.default_rng(seed)
    width = order - 1
    starts = rng.integers(0, len(tokens) - width + 1, 12)
    seen = np.array([tokens[s : s + width] for s in starts]).reshape(12, width)
    made_up = rng.integers(0, vocabulary_size, (12, width))
    padded = np.concatenate([seen[:6], made_up[:6]])
    padded[np.arange(width) < rng.integers(0, width + 1, (12, 1))] = -1
    return np.concatenate([seen, made_up, padded]).astype(np.int32)


def ngrams(tokens, order):
    return collections.Counter(
        tuple(int(w) for w in tokens[i : i + order]) for i in range(len(tokens) - order + 1)
    )


def known_words(context):
    """The context as a tuple, without -1 and whatever lies to the left of it."""
    return tuple(reversed(list(itertools.takewhile(lambda w: w >= 0, reversed(list(context))))))


class KneserNey:
    """Modified Kneser-Ney by recursion, sums written out."""

    def __init__(self, tokens, order, size, interpolated, minimum=None, discounts=None):
        self.size, self.interpolated = size, interpolated
        self.minimum = minimum or [1] * order
        self.counts = {order: ngrams(tokens, order)}
        for k in range(order - 1, 0, -1):
            self.counts[k] = collections.Counter(gram[1:] for gram in ngrams(tokens, k + 1))
        self.discounts = discounts or [self._discounts(k) for k in range(1, order + 1)]

    def _discounts(self, k):
        n = [sum(a == i for a in self.counts[k].values()) for i in range(5)]
        if 0 in n[1:4]:
            return FALLBACK
        y = n[1] / (n[1] + 2 * n[2])
        found = tuple(i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3))
        return found if all(0 < d < i for i, d in enumerate(found, 1)) else FALLBACK

    @functools.cache  # noqa: B019 (references live as long as their test)
    def distribution(self, context):
        """[P(w | context) for every word w], the context a tuple of known words."""
        k = len(context) + 1
        after = {w: self.counts[k][*context, w] for w in range(self.size)}
        total = sum(after.values())
        listed = {w for w, a in after.items() if a >= self.minimum[k - 1]}
        lower = self.distribution(context[1:]) if k > 1 else [1.0 / self.size] * self.size
        if k > 1 and not listed:
            return lower
        discount = {w: self.discounts[k - 1][min(a, 3) - 1] if a else 0.0 for w, a in after.items()}
        kept = {w: (after[w] - discount[w]) / total for w in listed}
        left = 1.0 - sum(kept.values())
        if k == 1 or self.interpolated:
            return [kept.get(w, 0.0) + left * lower[w] for w in range(self.size)]
        others = set(range(self.size)) - listed
        if not others:
            return [kept[w] / sum(kept.values()) for w in range(self.size)]
        rest = sum(lower[w] for w in others)
        return [kept[w] if w in listed else left * lower[w] / rest for w in range(self.size)]


class Interpolated:
    """Deleted interpolation with given weights by bin of context frequency."""

    def __init__(self, tokens, order, size):
        self.order, self.size, self.tokens = order, size, len(tokens)
        self.counts = [ngrams(tokens, k) for k in range(1, order + 1)]
        followed = [ngrams(tokens[:-1], k) for k in range(1, order)]
        self.totals = [{(): len(tokens)}, *followed]

    def bin(self, context):
        frequency = self.totals[-1].get(tuple(context), 0)
        return max(math.ceil(-math.log((1 + frequency) / self.tokens)), 0)

    def components(self, context, word):
        p = [1.0 / self.size]
        for k in range(1, self.order + 1):
            used = tuple(context)[len(context) - k + 1 :]
            total = self.totals[k - 1].get(used, 0)
            p.append(self.counts[k - 1][*used, word] / total if total else p[-1])
        return p

    def fit(self, pairs, bins, iterations):
        """EM, one bin and one word at a time; bins without words stay None."""
        weights = [None] * bins
        for b in range(bins):
            rows = [self.components(c, w) for c, w in pairs if self.bin(c) == b]
            if not rows:
                continue
            alpha = [1.0 / (self.order + 1)] * (self.order + 1)
            for _ in range(iterations):
                mass = [0.0] * len(alpha)
                for p in rows:
                    mixture = sum(a * x for a, x in zip(alpha, p, strict=True))
                    for j, x in enumerate(p):
                        mass[j] += alpha[j] * x / mixture
                alpha = [m / len(rows) for m in mass]
            weights[b] = alpha
        return weights
