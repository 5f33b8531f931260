"""The other mechanisms in plain NumPy, and LARS: oracles like `tests.reference`, on the same encoder.

Written from MoCo (Fig. 2 and sec. 4.1), Wu et al. 2018 (the bank), SimCLR (eq. 1 and Algorithm 1) and LARS (You et al.
2017, Algorithm 1), never from `keras_moco`. Gradients are derived by hand; `test_reference.py` checks them.
"""

from dataclasses import dataclass

import numpy as np

from tests.reference import copied, encode, encode_backward, info_nce, sgd, statistics_of, zeros_like


def softmax_cross_entropy(logits, labels):
    """The mean over rows, and its gradient with respect to the logits."""
    rows = np.arange(len(logits))
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares = exponentials / exponentials.sum(axis=-1, keepdims=True)
    loss = -np.log(shares[rows, labels]).mean()
    shares[rows, labels] -= 1
    return loss, shares / len(logits)


def in_batch(q, k, temperature):
    """InfoNCE of each query against all keys of the batch: the loss, and gradients of q and k (n, D)."""
    loss, gradient = softmax_cross_entropy(q @ k.T / temperature, np.arange(len(q)))
    return loss, gradient @ k / temperature, gradient.T @ q / temperature


def nt_xent(z, temperature):
    """SimCLR's eq. 1 over z (2 N, D), whose rows i and i + N are views of one image: the loss, and its gradient."""
    n = len(z) // 2
    logits = z @ z.T / temperature
    np.fill_diagonal(logits, -np.inf)
    loss, gradient = softmax_cross_entropy(logits, np.roll(np.arange(2 * n), n))
    return loss, (gradient + gradient.T) @ z / temperature


def lars(parameters, velocity, gradients, learning_rate, momentum, weight_decay, trust):
    """You et al., Algorithm 1, in place; what has one axis is neither decayed nor adapted."""
    for name, gradient in gradients.items():
        rate, weight = learning_rate, parameters[name]
        if weight.ndim > 1:
            gradient = gradient + weight_decay * weight
            rate = learning_rate * trust * np.linalg.norm(weight) / np.linalg.norm(gradient)
        velocity[name] = momentum * velocity[name] + rate * gradient
        parameters[name] = weight - velocity[name]


@dataclass
class EndToEndReference:
    """Both encoders learn; with `shared` they are the same one, otherwise they start with equal weights.

    `query` is a dict of weights, `groups` `(n/S, S)` rows of each batch-norm group.
    """

    query: dict
    shared: bool = True
    temperature: float = 0.07
    sgd_momentum: float = 0.9
    weight_decay: float = 0.0
    groups: np.ndarray | None = None

    def __post_init__(self):
        self.query = copied(self.query)
        self.key = self.query if self.shared else copied(self.query)
        self.velocity = zeros_like(self.query)
        self.key_velocity = self.velocity if self.shared else zeros_like(self.query)
        self.query_statistics = statistics_of(self.query)
        self.key_statistics = self.query_statistics if self.shared else statistics_of(self.query)

    def step(self, query_images, key_images, learning_rate, permutation):
        """One training step; `permutation` (n,) shuffles key images for batch norm. Returns the loss before it."""
        q, query_cache = encode(self.query, query_images, self.query_statistics, self.groups)
        shuffled, key_cache = encode(self.key, key_images[permutation], self.key_statistics, self.groups)
        k = np.empty_like(shuffled)
        k[permutation] = shuffled
        loss, gradient_q, gradient_k = in_batch(q, k, self.temperature)
        of_query = encode_backward(gradient_q, query_cache)
        of_key = encode_backward(gradient_k[permutation], key_cache)
        settings = (learning_rate, self.sgd_momentum, self.weight_decay)
        if self.shared:
            sgd(self.query, self.velocity, {name: of_query[name] + of_key[name] for name in of_query}, *settings)
        else:
            sgd(self.query, self.velocity, of_query, *settings)
            sgd(self.key, self.key_velocity, of_key, *settings)
        return float(loss)


@dataclass
class MemoryBankReference:
    """A bank `(M, D)` of one unit vector per image."""

    query: dict
    bank: np.ndarray
    bank_momentum: float = 0.5
    temperature: float = 0.07
    sgd_momentum: float = 0.9
    weight_decay: float = 0.0
    groups: np.ndarray | None = None

    def __post_init__(self):
        self.query, self.bank = copied(self.query), self.bank.copy()
        self.velocity = zeros_like(self.query)
        self.statistics = statistics_of(self.query)

    def step(self, images, index, drawn, learning_rate):
        """One training step on images of these indices, against the rows `drawn` (K,). Returns the loss before it."""
        q, cache = encode(self.query, images, self.statistics, self.groups)
        loss, gradient = info_nce(q, self.bank[index], self.bank[drawn], self.temperature)
        gradients = encode_backward(gradient, cache)
        sgd(self.query, self.velocity, gradients, learning_rate, self.sgd_momentum, self.weight_decay)
        for row, new in zip(index, q, strict=True):
            mixed = self.bank_momentum * self.bank[row] + (1 - self.bank_momentum) * new
            self.bank[row] = mixed / np.linalg.norm(mixed)
        return float(loss)


@dataclass
class SimCLRReference:
    """Both views pass the encoder as one batch, with one set of batch-norm statistics; LARS descends."""

    query: dict
    temperature: float = 0.5
    momentum: float = 0.9
    weight_decay: float = 0.0
    trust: float = 0.001

    def __post_init__(self):
        self.query = copied(self.query)
        self.velocity = zeros_like(self.query)
        self.statistics = statistics_of(self.query)

    def step(self, first, second, learning_rate):
        """One training step. Returns the loss before it."""
        z, cache = encode(self.query, np.concatenate([first, second]), self.statistics)
        loss, gradient = nt_xent(z, self.temperature)
        gradients = encode_backward(gradient, cache)
        lars(self.query, self.velocity, gradients, learning_rate, self.momentum, self.weight_decay, self.trust)
        return float(loss)
