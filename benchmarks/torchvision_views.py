"""The MoCo v1 recipe as PyTorch users have it: torchvision's transforms on PIL images, in two worker processes.

Imported, and its workers started, before TensorFlow: a process that runs TensorFlow's threads should not be forked.
"""

import itertools

import torch
from PIL import Image
from torchvision import transforms


class Views(torch.utils.data.Dataset):
    """Two views of each image, for ever.

    Args:
        images: list of paths, or uint8 array `(n, h, w, 3)`.
        size: int, side of the views.
    """

    def __init__(self, images, size):
        self.images = images
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
                transforms.RandomGrayscale(p=0.2),
                transforms.ColorJitter(0.4, 0.4, 0.4, 0.4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
            ]
        )

    def __getitem__(self, index):
        image = self.images[index]
        image = Image.open(image).convert("RGB") if isinstance(image, str) else Image.fromarray(image)
        return self.transform(image), self.transform(image)


def batches(images, size, batch_size, workers=2):
    """Starts the workers: an endless iterator of batches of two views."""
    order = itertools.cycle(range(len(images)))
    loader = torch.utils.data.DataLoader(
        Views(images, size), batch_size=batch_size, sampler=order, num_workers=workers, drop_last=True
    )
    return iter(loader)
