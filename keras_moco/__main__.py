"""What can be run: python -m keras_moco"""

from keras_moco import __version__
from keras_moco.standard_streams import plain_output

COMMANDS = {
    "python train.py": "pre-trains an encoder by a configuration and flags (in a checkout)",
    "python evaluate.py": "evaluates what was trained, searches with it, exports it (in a checkout)",
    "python -m keras_moco.convert": "weights from PyTorch, and to it",
    "python -m keras_moco.augment.preview": "a picture of what an augmentation makes of images",
    "python -m keras_moco.data.import_idx": "turns MNIST-like files into a set of TensorFlow Datasets",
}


@plain_output()
def main():
    print(f"keras_moco {__version__}: Momentum Contrast for TensorFlow and Keras 3\n")
    width = max(map(len, COMMANDS))
    for command, what in COMMANDS.items():
        print(f"  {command:{width}}  {what}")
    print("\nEach says more with --help. In Python, begin with `import keras_moco`; docs/api.md lists what there is.")


if __name__ == "__main__":
    main()
