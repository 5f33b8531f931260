"""ResNet and MoCo in PyTorch, the other side of the comparison: written from the papers and torchvision's names.

Importing this imports torch: only tests of the tier `torch` may.
"""

import contextlib
import copy

import keras
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

# On shared cores, several threads wait for each other, and small maps take up to eight times as long.
torch.set_num_threads(1)

BLOCKS = {
    "tiny": ("basic", (1,)),
    "resnet10": ("basic", (1, 1, 1, 1)),
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
}


class Block(nn.Module):
    """Convolutions with BatchNorm, and a shortcut; the stride is in the first 3x3 (He et al. 2016, "v1.5")."""

    def __init__(self, inputs, kernels, channels, stride):
        super().__init__()
        self.depth = len(kernels)
        first_wide = kernels.index(3)
        before = inputs
        for i, (kernel, outputs) in enumerate(zip(kernels, channels, strict=True)):
            step = stride if i == first_wide else 1
            self.add_module(f"conv{i + 1}", nn.Conv2d(before, outputs, kernel, step, kernel // 2, bias=False))
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(outputs))
            before = outputs
        self.downsample = None
        if stride > 1 or inputs != before:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, before, 1, stride, bias=False), nn.BatchNorm2d(before))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        for i in range(1, self.depth + 1):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))
            if i < self.depth:
                x = F.relu(x)
        return F.relu(x + shortcut)


class ResNet(nn.Module):
    """`features` before `fc`, of the head; images come normalised, (n, 3, h, w)."""

    def __init__(self, name, stem="imagenet", head="linear", width=64, dim=128, channels=3):
        super().__init__()
        kind, depths = BLOCKS[name]
        kernel, stride = {"imagenet": (7, 2), "cifar": (3, 1), "half": (3, 2)}[stem]
        self.conv1 = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        before, self.stages = width, len(depths)
        for stage, depth in enumerate(depths):
            w = width * 2**stage
            kernels, outputs = ((3, 3), (w, w)) if kind == "basic" else ((1, 3, 1), (w, w, 4 * w))
            blocks = []
            for i in range(depth):
                blocks.append(Block(before, kernels, outputs, 2 if stage and not i else 1))
                before = outputs[-1]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        if head == "linear":
            self.fc = nn.Linear(before, dim)
        elif head == "mlp":
            self.fc = nn.Sequential(nn.Linear(before, before), nn.ReLU(), nn.Linear(before, dim))
        else:
            self.fc = nn.Identity()

    def features(self, x):
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return x.mean((2, 3))

    def forward(self, x):
        return F.normalize(self.fc(self.features(x)), dim=1)


class MoCo(nn.Module):
    """Algorithm 1 of the paper in the order of the authors' code; the batch is not shuffled."""

    def __init__(self, encoder, queue_size, dim, momentum, temperature, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        queue = F.normalize(torch.randn(dim, queue_size, generator=generator, dtype=torch.float64), dim=0)
        self.register_buffer("queue", queue.to(next(encoder.parameters()).dtype))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
        self.encoder_q = encoder
        self.encoder_k = copy.deepcopy(encoder)
        self.momentum, self.temperature = momentum, temperature

    def forward(self, query_images, key_images):
        """The loss; the keys are enqueued."""
        queries = self.encoder_q(query_images)
        with torch.no_grad():
            for theirs, ours in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
                ours.copy_(self.momentum * ours + (1 - self.momentum) * theirs)
            keys = self.encoder_k(key_images)
        positive = (queries * keys).sum(1, keepdim=True)
        logits = torch.cat([positive, queries @ self.queue.clone()], 1) / self.temperature
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
        rows = (self.queue_ptr + torch.arange(len(keys))) % self.queue.shape[1]
        self.queue[:, rows] = keys.T
        self.queue_ptr[:] = (self.queue_ptr + len(keys)) % self.queue.shape[1]
        return loss


def randomise(module, seed=0):
    """Random affine parameters and statistics of BatchNorm, and counters that are not 0."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor, low, high):
        drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
        tensor.copy_((low + (high - low) * drawn).to(tensor.dtype))

    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                uniform(layer.weight, 0.5, 1.5)
                uniform(layer.bias, -0.5, 0.5)
                uniform(layer.running_mean, -0.5, 0.5)
                uniform(layer.running_var, 0.5, 1.5)
                layer.num_batches_tracked.fill_(7)
    return module


def small_moco():
    """A ResNet-10 with seven steps on its counters."""
    torch.manual_seed(1)
    model = MoCo(randomise(ResNet("resnet10", "cifar", width=4, dim=8)), 20, 8, 0.99, 0.2)
    model.queue_ptr[:] = 3
    return model


def sgd_of(moco, lr=0.03):
    """The optimizer of `main_moco.py`."""
    return torch.optim.SGD(moco.parameters(), lr, momentum=0.9, weight_decay=1e-3)


def checkpoint_of(moco, optimizer=None, epoch=1, arch="resnet10"):
    """What `main_moco.py` saves, after one step on random gradients."""
    optimizer = optimizer or sgd_of(moco)
    for parameter in moco.encoder_q.parameters():
        parameter.grad = torch.randn(parameter.shape)
    optimizer.step()
    state = {f"module.{name}": tensor.clone() for name, tensor in moco.state_dict().items()}
    return {"epoch": epoch, "arch": arch, "state_dict": state, "optimizer": optimizer.state_dict()}


def read(path):
    return torch.load(path, weights_only=True)


def relative(ours, theirs):
    """The largest difference in units of the largest number."""
    ours, theirs = np.asarray(ours, "float64"), np.asarray(theirs, "float64")
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def normalised(images, mean, std):
    """Images (n, h, w, c) in 0..255 in the form of PyTorch's pipelines: (n, c, h, w), scaled and standardised."""
    images = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(value, dtype=images.dtype).reshape(1, -1, 1, 1) for value in (mean, std))
    return (images - mean) / std


@contextlib.contextmanager
def floats(dtype):
    """Both sides compute in this dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
