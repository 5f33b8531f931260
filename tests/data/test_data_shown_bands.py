"""Which bands a picture shows."""

import numpy as np
import pytest

from keras_moco.data.shown_bands import describe_bands, shown_bands, take_bands


def test_the_first_three_bands_are_shown_or_one_as_gray_or_those_that_are_asked_for():
    image = np.arange(26).reshape(2, 13)  # two pixels of 13 bands
    np.testing.assert_array_equal(take_bands(image), image[:, :3])
    np.testing.assert_array_equal(take_bands(image, (4, 3, 2)), image[:, [3, 2, 1]])
    np.testing.assert_array_equal(take_bands(image, (13,)), image[:, 12:])
    np.testing.assert_array_equal(take_bands(image[:, :2]), image[:, :1])
    for channels in (1, 3):
        np.testing.assert_array_equal(take_bands(image[:, :channels]), image[:, :channels])


def test_words_are_needed_only_where_a_picture_does_not_show_everything():
    assert [describe_bands(channels) for channels in (1, 3)] == ["", ""]
    assert describe_bands(2) == "band 1 of 2 as gray"
    assert describe_bands(4) == "bands 1, 2 and 3 of 4 as red, green and blue"
    assert describe_bands(3, (3, 2, 1)) == "bands 3, 2 and 1 of 3 as red, green and blue"
    assert describe_bands(13, (8,)) == "band 8 of 13 as gray"


@pytest.mark.parametrize("bands", [(), (1, 2), (0, 1, 2), (1, 2, 14)])
def test_other_bands_are_refused(bands):
    received = ",".join(map(str, bands))
    with pytest.raises(ValueError, match=rf"`bands` .*bands={received}, images of 13 channel.*from 1 to 13"):
        shown_bands(13, bands)
