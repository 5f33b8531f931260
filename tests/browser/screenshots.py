"""Takes the screenshots of docs/tensorboard.md: python -m tests.browser.screenshots --logdir runs --out docs"""

import argparse
import tempfile
import time
from pathlib import Path

from PIL import Image

from tests.browser.board import Board, browse, serve

WIDTH, COLOURS = 1000, 128  # of a screenshot, which keeps it below about 150 kB


def take(board, path):
    time.sleep(3)  # lines and points move to their places
    board.driver.save_screenshot(str(path))
    with Image.open(path) as page:
        size = (WIDTH, page.height * WIDTH // page.width)
        page.convert("RGB").resize(size, Image.Resampling.LANCZOS).quantize(COLOURS).save(path, optimize=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--logdir", required=True)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    with serve(args.logdir) as address, tempfile.TemporaryDirectory() as profile, browse(profile) as driver:
        board = Board(driver, address)
        for tab, selector, pattern in (
            ("custom_scalars", "tf-custom-scalar-multi-line-chart-card", "contrast/loss"),
            ("scalars", "tf-scalar-card", r"tag: contrast/loss\b.* \d"),
            ("images", "tf-image-loader", "tag: views"),
            ("histograms", "tf-histogram-loader", r"tag: similarities/positive .*\d"),
            ("hparams", "tf-hparams-table-view", r"Trial ID .*\d"),
        ):
            board.open(tab)
            board.wait_for(selector, pattern)
            take(board, args.out / f"tensorboard_{tab}.png")
        board.open_projector()
        board.run("deep('vz-projector-data-panel')[0].selectedColorOptionName = 'class'")
        take(board, args.out / "tensorboard_projector.png")


if __name__ == "__main__":
    main()
