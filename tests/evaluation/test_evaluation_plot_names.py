"""Names in pictures: legible, within the picture, apart from each other, and different if they differ."""

import itertools

import numpy as np
import pytest
from absl import logging
from matplotlib.font_manager import FontProperties, findfont, get_font
from PIL import ImageFont

from keras_moco.evaluation import draw_confusion, draw_neighbours, draw_projection, plot_names
from keras_moco.evaluation.plot_names import fit_names, sizes_within

RNG = np.random.default_rng(0)
LATIN = "signs_and_symbols house-number große Straße café.of the_north"
SCRIPTS = (LATIN, "\N{CAT FACE}smile \N{GRINNING FACE}", "日本語のとても長いクラス名前", "مرحبا بالعالم الكبير")
HERE = get_font(findfont(FontProperties())).get_charmap()  # the letters of the usual font


def names_of(count):
    """Different names of 3 to 60 letters, in several scripts."""
    lengths = np.linspace(3, 60, count).astype(int)
    letters = itertools.cycle(map(itertools.cycle, SCRIPTS))
    return ["".join(itertools.islice(next(letters), int(length) - 3)) + f"{n:03}" for n, length in enumerate(lengths)]


def texts_of(figure):
    """The names and titles of a figure, without numbers at a scale."""
    texts = [text for legend in figure.legends for text in legend.get_texts()]
    for axes in figure.axes:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        if len(axes.get_xticks()) == len(axes.get_yticks()) >= 3 and axes.images and axes.get_xticks()[0] == 0:
            texts += [*axes.get_xticklabels(), *axes.get_yticklabels()]
    return [text for text in texts if text.get_text()]


def check_layout(figure):
    """All of the text is inside of the figure, large enough, and does not overlap."""
    figure.draw_without_rendering()
    texts = texts_of(figure)
    assert all(text.get_fontsize() >= 6 for text in texts)
    boxes = np.array([text.get_window_extent().extents for text in texts])  # (n, 4): left, bottom, right, top
    assert (boxes[:, :2] >= -0.5).all() and (boxes[:, 2:] <= np.array(figure.bbox.size) + 0.5).all()
    least = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    overlap = (least > 1).all(axis=-1) & ~np.eye(len(boxes), dtype=bool)
    assert not overlap.any(), [(texts[a].get_text(), texts[b].get_text()) for a, b in np.argwhere(overlap)[:3]]
    return [text.get_text() for text in texts]


@pytest.mark.parametrize("count", [3, 10, 100, pytest.param(1000, marks=pytest.mark.slow)])
def test_names_in_a_confusion_matrix(count, tmp_path, figures):
    names, labels = names_of(count), np.arange(count)
    draw_confusion(tmp_path / "a.png", np.tile(labels, 2), np.concatenate([labels, (labels + 1) % count]), names)
    shown = check_layout(figures[0])
    if count <= 100:
        on_axes = [text.get_text() for text in figures[0].axes[0].get_yticklabels()]
        assert len(set(on_axes)) == count == len(figures[0].axes[0].get_xticks())
        assert [text.get_text() for text in figures[0].axes[0].get_xticklabels()] == on_axes
    else:
        [listed] = [text for text in shown if text.startswith("predicted")]
        assert listed.count("50.0 % of ") == 10 and "0 (sig000)" not in names and f"({names[0]})" in listed


@pytest.mark.parametrize("count", [3, 10, 100, pytest.param(1000, marks=pytest.mark.slow)])
def test_names_in_a_projection(count, tmp_path, figures, quick):
    labels = np.arange(1000) % count
    centres = np.stack([np.cos(np.arange(count)), np.sin(np.arange(count) * 1.7)], axis=1)
    features = np.concatenate([centres[labels], RNG.normal(0, 0.1, (1000, 3))], axis=1)
    draw_projection(tmp_path / "a.png", features, labels, names_of(count))
    shown = check_layout(figures[0])
    assert len(set(shown)) == len(shown) >= min(count, 20)


@pytest.mark.parametrize("count", [3, 1000])
def test_names_below_neighbours(count, tmp_path, figures):
    pixels = RNG.integers(0, 256, (28, 8, 8, 1), dtype="uint8")
    names = names_of(count)
    labels = np.linspace(0, count - 1, 28).astype(int)
    files = [f"IMG_2024_{number:04}_{name}.jpg" for number, name in enumerate(names_of(28))]
    neighbours = pixels[4:].reshape(4, 6, 8, 8, 1), np.ones((4, 6))
    known = {"query_labels": labels[:4], "neighbour_labels": labels[4:].reshape(4, 6), "class_names": names}
    known |= {"query_names": files[:4], "neighbour_names": np.reshape(files[4:], (4, 6)).tolist()}
    draw_neighbours(tmp_path / "a.png", pixels[:4], *neighbours, **known)
    check_layout(figures[0])
    of_class, of_file = zip(*[[text.get_text() for text in axes.texts] for axes in figures[0].axes], strict=True)
    assert len(set(of_class)) == len(set(labels)) and len(set(of_file)) == 28
    for text, file in zip(of_file, np.column_stack([files[:4], known["neighbour_names"]]).ravel(), strict=True):
        start, _, end = text.replace("\n", "").partition("…")
        if set(map(ord, file)) <= HERE.keys() and not text[0].isdecimal():
            letters = file.replace(" ", "")  # a line may end at a blank
            assert letters.startswith(start.replace(" ", "")) and letters.endswith(end.replace(" ", ""))


def test_a_name_that_fits_into_two_lines_is_complete():
    for name in ("signs_and_symbols", "a-very-long/name.of_a_class", "unbreakablelongword_s"):
        [text] = fit_names([name], width=78, sizes={8: 2}).texts
        assert text.replace("\n", "") == name and text.count("\n") <= 1


@pytest.mark.parametrize("size", [6, 8, 10])
def test_a_shortened_name_is_as_long_as_fits(size):
    """Widths by Pillow, of the same font; they differ by hinting, and by the small reserve."""
    font = ImageFont.truetype(findfont(FontProperties()), 100 * size)
    name = "IMG_2024_11_30_of_a_street_in_the_old_town_at_night.jpg"
    [text] = fit_names([name], width=120, sizes={size: 1}).texts
    start, cut, end = text.partition("…")
    assert cut and name.startswith(start) and name.endswith(end) and abs(len(start) - len(end)) <= 1
    assert 0.85 * 120 < font.getlength(text) / 100 < 1.05 * 120


def test_names_that_differ_never_look_the_same():
    inside = [f"{'begin' * 9}{number}{'end' * 9}" for number in range(12)]
    blanks = ["two words", "two  words", "two\twords"]
    for names in (inside, blanks, ["狗", "猫", "狗猫", "1: □", "狗 dog"], ["crane", "crane"], ["", " "]):
        texts = fit_names(names, 60, {6: 1}, range(5, 5 + len(names))).texts
        assert len(set(texts)) == len(names)
    assert fit_names(["狗", "dog", "狗"], 60, {6: 1}, [8, 9, 8]).texts == ["8: □", "dog", "8: □"]
    assert len(set(fit_names(["狗.jpg", "猫.jpg", "狗.jpg"], 60, {6: 1}).texts)) == 2


def test_the_largest_size_is_taken_in_which_all_names_fit():
    assert sizes_within(26) == {10: 2, 9: 2, 8: 2, 7: 2, 6: 2} and sizes_within(1) == {6: 1}
    found = {length: fit_names(["i", "m" * length], 60, {10: 1, 8: 1, 6: 1}) for length in (5, 7, 9, 20)}
    assert {length: names.style["fontsize"] for length, names in found.items()} == {5: 10, 7: 8, 9: 6, 20: 6}
    assert ["…" in names.texts[1] for names in found.values()] == [False, False, False, True]


def test_a_letter_is_taken_from_another_font_that_has_it():
    letter = "\N{MATHEMATICAL SCRIPT CAPITAL A}"
    assert ord(letter) not in HERE
    names = fit_names([letter, "a"], 60, {8: 1})
    fonts = [get_font(findfont(FontProperties(family=[family]))) for family in names.style["family"]]
    assert names.texts == [letter, "a"] and any(font.get_char_index(ord(letter)) for font in fonts)


def test_a_letter_that_no_font_has_is_reported_once(monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    monkeypatch.setattr(plot_names, "_reported", set())
    for names in (["狗 dog", "猫"], ["猫"], ["狗狗", "dog"]):
        fit_names(names, 60, {8: 1})
    [line] = said
    assert ": 狗猫. " in line
