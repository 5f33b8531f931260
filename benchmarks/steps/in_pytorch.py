"""MoCo's step in PyTorch, written from the paper and the formulas of the CIFAR-10 demo, for comparison."""

import copy
import time
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from steps import DIM, LEARNING_RATE, MOMENTUM, TEMPERATURE, WEIGHT_DECAY

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}


class SplitBatchNorm(nn.BatchNorm2d):
    """BatchNorm over interleaved groups, as channels of a smaller batch: example i is in group i mod splits."""

    def __init__(self, channels, splits):
        super().__init__(channels)
        self.splits = splits

    def forward(self, x):
        n, c, h, w = x.shape
        mean, variance, weight, bias = (
            tensor.repeat(self.splits) for tensor in (self.running_mean, self.running_var, self.weight, self.bias)
        )
        groups = x.reshape(n // self.splits, c * self.splits, h, w)
        outputs = F.batch_norm(groups, mean, variance, weight, bias, True, self.momentum, self.eps)
        with torch.no_grad():
            self.running_mean.copy_(mean.view(self.splits, c).mean(0))
            self.running_var.copy_(variance.view(self.splits, c).mean(0))
        return outputs.reshape(n, c, h, w)


class Block(nn.Module):
    """Convolutions of the given kernels with BatchNorm, and a shortcut; the stride is in the first 3x3."""

    def __init__(self, inputs, kernels, channels, stride, norm):
        super().__init__()
        layers, before = [], inputs
        for i, (kernel, outputs) in enumerate(zip(kernels, channels, strict=True)):
            step = stride if i == kernels.index(3) else 1
            layers += [nn.Conv2d(before, outputs, kernel, step, kernel // 2, bias=False), norm(outputs), nn.ReLU(True)]
            before = outputs
        self.residual = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Identity()
        if stride > 1 or inputs != before:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, before, 1, stride, bias=False), norm(before))

    def forward(self, x):
        return F.relu(self.residual(x) + self.shortcut(x), inplace=True)


def resnet(name, stem, norm, dim):
    """A ResNet v1.5 (He et al. 2016) with a linear layer to `dim` numbers."""
    kernel, stride = {"imagenet": (7, 2), "cifar": (3, 1)}[stem]
    layers = [nn.Conv2d(3, 64, kernel, stride, kernel // 2, bias=False), norm(64), nn.ReLU(True)]
    if stem == "imagenet":
        layers.append(nn.MaxPool2d(3, 2, 1))
    before = 64
    for stage, depth in enumerate(BLOCKS[name]):
        width = 64 * 2**stage
        kernels, channels = ((3, 3), (width, width))
        if name == "resnet50":
            kernels, channels = (1, 3, 1), (width, width, 4 * width)
        for i in range(depth):
            layers.append(Block(before, kernels, channels, 2 if stage and not i else 1, norm))
            before = channels[-1]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, dim))


class MoCo:
    """Algorithm 1 of the paper; the batch is shuffled for the keys, as in the demo."""

    def __init__(self, encoder, queue_size, precision):
        self.query_encoder, self.key_encoder = encoder, copy.deepcopy(encoder)
        device = next(encoder.parameters()).device
        self.queue = F.normalize(torch.randn(DIM, queue_size, device=device), dim=0)
        self.pointer = 0
        self.optimizer = torch.optim.SGD(encoder.parameters(), LEARNING_RATE, 0.9, weight_decay=WEIGHT_DECAY)
        self.autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def step(self, query_images, key_images):
        """One training step: the loss."""
        with torch.no_grad():
            for ours, theirs in zip(self.key_encoder.parameters(), self.query_encoder.parameters(), strict=True):
                ours.mul_(MOMENTUM).add_(theirs, alpha=1 - MOMENTUM)
            order = torch.randperm(len(key_images), device=key_images.device)
            with self.autocast():
                keys = self.key_encoder(key_images[order])
            keys = F.normalize(keys.float(), dim=1)[order.argsort()]
        with self.autocast():
            queries = self.query_encoder(query_images)
        queries = F.normalize(queries.float(), dim=1)
        positive = (queries * keys).sum(1, keepdim=True)
        logits = torch.cat([positive, queries @ self.queue.clone()], 1) / TEMPERATURE
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        rows = (self.pointer + torch.arange(len(keys), device=keys.device)) % self.queue.shape[1]
        self.queue[:, rows] = keys.T
        self.pointer = (self.pointer + len(keys)) % self.queue.shape[1]
        return loss.item()


def moco(memory_format, case, precision):
    norm = partial(SplitBatchNorm, splits=case.bn_splits) if case.bn_splits > 1 else nn.BatchNorm2d
    encoder = resnet(case.backbone, case.stem, norm, DIM).to(DEVICE, memory_format=memory_format)
    model = MoCo(encoder, case.queue_size, precision)
    shape = (2, case.batch, 3, case.pixels, case.pixels)
    query, key = (images.contiguous(memory_format=memory_format) for images in torch.randn(shape, device=DEVICE))

    def take():
        start = time.perf_counter()
        model.step(query, key)
        return time.perf_counter() - start

    return take


CANDIDATES = {
    "pytorch": partial(moco, torch.contiguous_format),
    "pytorch channels_last": partial(moco, torch.channels_last),
}
