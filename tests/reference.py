"""Momentum Contrast in plain NumPy: the oracle the Keras implementation is compared with.

Written from the paper (He et al., CVPR 2020: eq. 1, eq. 2, Algorithm 1, section 3.3) and from the documented
behaviour of the official PyTorch code, never from `keras_moco`. Gradients are derived by hand;
`test_reference.py` checks them against finite differences, so that the oracle is itself tested.

The encoder is small enough to differentiate on paper:

    images -> flatten -> x @ w1 + b1 -> [batch normalisation] -> ReLU -> h @ w2 + b2 -> unit length

Letters: n images, d inputs, h hidden units, D embedding width, K keys in the queue, S groups of batch norm.
"""

from dataclasses import dataclass

import numpy as np

BATCH_NORM_MOMENTUM = 0.9
BATCH_NORM_EPSILON = 1e-5


def initial_parameters(input_dim, hidden_dim, embedding_dim, seed=0, batch_norm=False):
    """Draws the encoder's weights, in the order in which a Keras model of these layers lists them."""
    rng = np.random.default_rng(seed)
    parameters = {
        "w1": rng.normal(0, input_dim**-0.5, (input_dim, hidden_dim)),
        "b1": rng.normal(0, 0.1, (hidden_dim,)),
    }
    if batch_norm:
        parameters["gamma"] = rng.uniform(0.5, 1.5, (hidden_dim,))
        parameters["beta"] = rng.normal(0, 0.1, (hidden_dim,))
    parameters["w2"] = rng.normal(0, hidden_dim**-0.5, (hidden_dim, embedding_dim))
    parameters["b2"] = rng.normal(0, 0.1, (embedding_dim,))
    return parameters


def initial_statistics(hidden_dim):
    """Moving mean 0 and variance 1, the start of every batch normalisation."""
    return {"mean": np.zeros(hidden_dim), "variance": np.ones(hidden_dim)}


def interleaved(n, splits):
    """Groups (n/S, S) of the official CIFAR demo's SplitBatchNorm: column s holds the rows i with i mod S == s."""
    return np.arange(n).reshape(-1, splits)


def contiguous(n, replicas):
    """Groups (n/S, S) of as many devices: the first takes the first rows, the next the next."""
    return np.arange(n).reshape(replicas, -1).T


def batch_norm(x, gamma, beta, groups):
    """Normalises each group of rows, a column of `groups` (n/S, S), by its own statistics.

    It divides by the biased deviation, while the moving variance follows the unbiased one, as in PyTorch.

    Returns the output (n, h), what `batch_norm_backward` needs, and each group's mean and unbiased variance.
    """
    grouped = x[groups]  # (n/S, S, h)
    mean = grouped.mean(axis=0)  # (S, h)
    variance = ((grouped - mean) ** 2).mean(axis=0)  # (S, h)
    inverse = 1 / np.sqrt(variance + BATCH_NORM_EPSILON)
    normalized = (grouped - mean) * inverse
    unbiased = variance * len(grouped) / (len(grouped) - 1)
    output = np.empty_like(x)
    output[groups] = normalized * gamma + beta
    return output, (normalized, inverse, gamma, groups), (mean, unbiased)


def batch_norm_backward(gradient, cache):
    """Gradients with respect to x (n, h), gamma (h,) and beta (h,)."""
    normalized, inverse, gamma, groups = cache
    gradient = gradient[groups]
    inner = gradient * gamma
    dx = np.empty((groups.size, gradient.shape[-1]))
    # The mean and the variance both depend on x: take out what moves only them.
    dx[groups] = inverse * (inner - inner.mean(axis=0) - normalized * (inner * normalized).mean(axis=0))
    return dx, (gradient * normalized).sum(axis=(0, 1)), gradient.sum(axis=(0, 1))


def encode(parameters, images, statistics=None, groups=None):
    """Embeds images in training mode.

    `statistics`, updated in place, is None without batch norm; `groups` is None for one group. Returns embeddings
    `(n, D)` of unit length, and what `encode_backward` needs.
    """
    x = images.reshape(len(images), -1)  # (n, d)
    hidden = x @ parameters["w1"] + parameters["b1"]  # (n, h)
    norm_cache = None
    if "gamma" in parameters:
        groups = interleaved(len(images), 1) if groups is None else groups
        hidden, norm_cache, (mean, variance) = batch_norm(hidden, parameters["gamma"], parameters["beta"], groups)
        # Every group updates the moving statistics from the same start and the results are averaged.
        for name, value in (("mean", mean), ("variance", variance)):
            moved = BATCH_NORM_MOMENTUM * statistics[name] + (1 - BATCH_NORM_MOMENTUM) * value  # (S, h)
            statistics[name] = moved.mean(axis=0)
    active = np.maximum(hidden, 0)
    output = active @ parameters["w2"] + parameters["b2"]  # (n, D)
    length = np.sqrt((output**2).sum(axis=-1, keepdims=True))  # (n, 1)
    embedding = output / length
    return embedding, (parameters, x, norm_cache, active, embedding, length)


def encode_backward(gradient, cache):
    """Gradients of the weights from the gradient (n, D) of the embeddings."""
    parameters, x, norm_cache, active, embedding, length = cache
    # d(o/|o|) = (I - e e^T) do / |o|: only movement along the sphere counts.
    output = (gradient - embedding * (gradient * embedding).sum(axis=-1, keepdims=True)) / length
    hidden = (output @ parameters["w2"].T) * (active > 0)
    gradients = {"w2": active.T @ output, "b2": output.sum(axis=0)}
    if norm_cache is not None:
        hidden, gradients["gamma"], gradients["beta"] = batch_norm_backward(hidden, norm_cache)
    gradients["w1"] = x.T @ hidden
    gradients["b1"] = hidden.sum(axis=0)
    return {name: gradients[name] for name in parameters}


def info_nce(q, k, queue, temperature):
    """Eq. 1: the mean over q of -log(exp(q.k / T) / (exp(q.k / T) + sum_i exp(q.queue_i / T))).

    Returns the loss and its gradient with respect to q (n, D); keys and queue carry none.
    """
    logits = np.concatenate([(q * k).sum(axis=-1, keepdims=True), q @ queue.T], axis=-1) / temperature  # (n, 1+K)
    shift = logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(logits - shift)
    total = exponentials.sum(axis=-1, keepdims=True)
    loss = (np.log(total) + shift - logits[:, :1]).mean()
    weights = exponentials / total  # softmax, (n, 1+K)
    gradient = ((weights[:, :1] - 1) * k + weights[:, 1:] @ queue) / (temperature * len(q))
    return loss, gradient


def sgd(parameters, velocity, gradients, learning_rate, momentum, weight_decay):
    """PyTorch's SGD, in place: g += wd w; v = mu v + g; w -= lr v."""
    for name, gradient in gradients.items():
        velocity[name] = momentum * velocity[name] + gradient + weight_decay * parameters[name]
        parameters[name] = parameters[name] - learning_rate * velocity[name]


def copied(parameters):
    return {name: value.copy() for name, value in parameters.items()}


def zeros_like(parameters):
    return {name: np.zeros_like(value) for name, value in parameters.items()}


def statistics_of(parameters):
    return initial_statistics(len(parameters["gamma"])) if "gamma" in parameters else None


@dataclass
class MoCoReference:
    """The state of a MoCo run and its one operation, `step`.

    The key encoder starts as a copy of `query`, a dict of weights. `queue` is `(K, D)` unit rows; `groups` has the
    `(n/S, S)` rows of each batch-norm group, and counts only when `query` holds "gamma" and "beta".
    """

    query: dict
    queue: np.ndarray
    momentum: float = 0.999
    temperature: float = 0.07
    sgd_momentum: float = 0.9
    weight_decay: float = 0.0
    symmetric: bool = False
    groups: np.ndarray | None = None
    pointer: int = 0

    def __post_init__(self):
        self.query, self.key, self.queue = copied(self.query), copied(self.query), self.queue.copy()
        self.velocity = zeros_like(self.query)
        self.query_statistics, self.key_statistics = statistics_of(self.query), statistics_of(self.query)

    def step(self, query_images, key_images, learning_rate, permutation=None):
        """One training step; `permutation` (n,) shuffles key images for batch norm. Returns the loss before it."""
        # Eq. 2, before the keys are encoded, with the query weights of the previous step.
        for name, value in self.query.items():
            self.key[name] = self.momentum * self.key[name] + (1 - self.momentum) * value

        directions = [(query_images, key_images)]
        if self.symmetric:
            directions.append((key_images, query_images))

        # Every direction sees the queue as it stood before the step: the batch's own keys are no negatives.
        loss, gradients, keys = 0.0, zeros_like(self.query), []
        for images_of_q, images_of_k in directions:
            k = self._encode_keys(images_of_k, permutation)
            q, cache = encode(self.query, images_of_q, self.query_statistics, self.groups)
            direction_loss, gradient_q = info_nce(q, k, self.queue, self.temperature)
            loss += direction_loss
            for name, gradient in encode_backward(gradient_q, cache).items():
                gradients[name] = gradients[name] + gradient
            keys.append(k)

        sgd(self.query, self.velocity, gradients, learning_rate, self.sgd_momentum, self.weight_decay)
        for key in np.concatenate(keys):
            self.queue[self.pointer] = key
            self.pointer = (self.pointer + 1) % len(self.queue)
        return float(loss)

    def _encode_keys(self, images, permutation):
        if permutation is None:
            permutation = np.arange(len(images))
        shuffled, _ = encode(self.key, images[permutation], self.key_statistics, self.groups)
        keys = np.empty_like(shuffled)
        keys[permutation] = shuffled
        return keys
