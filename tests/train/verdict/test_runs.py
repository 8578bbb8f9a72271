import numpy as np
import pytest

from train.verdict.runs import packed, unpacked, windows_of


def test_losses_of_windows_come_back_to_three_digits_in_a_few_bytes_each():
    losses_W = np.random.default_rng(0).gamma(20, 0.12, size=2048)
    text = packed(losses_W)
    np.testing.assert_allclose(unpacked(text), losses_W, rtol=2**-11)
    assert abs(unpacked(text).mean() - losses_W.mean()) < 1e-4
    assert len(text) < 3 * len(losses_W)


@pytest.mark.parametrize("text", ["", "no base64", "AAAA", "eJwDAAAAAAI="])
def test_other_text_is_refused(text):
    with pytest.raises(ValueError):
        unpacked(text)


def test_a_run_whose_windows_are_no_numbers_has_none():
    assert windows_of({}) is None
    assert windows_of({"windows": packed(np.array([2.5, np.nan]))}) is None
