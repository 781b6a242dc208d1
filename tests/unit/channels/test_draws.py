import numpy as np
from scipy import stats
from scipy.special import ndtri

from channels import draw_kernels as kernels
from channels.draws import keyed_normal, keyed_uniform, pair_words, stream_key

PAIRS = (np.arange(3000), (np.arange(3000) * 7 + 1) % 5000)


def test_compiled_and_numpy_hashes_agree_bit_for_bit():
    key = stream_key(11, "shadowing")
    words = pair_words(key, *PAIRS)
    compiled = [kernels.pair_word(np.uint64(key), i, j) for i, j in zip(*PAIRS, strict=True)]
    assert words.tolist() == [int(word) for word in compiled]


def test_compiled_normal_is_the_inverse_normal_cdf():
    key = stream_key(11, "x")
    words = pair_words(key, *PAIRS)
    compiled = np.array([kernels.normal(word) for word in words])
    np.testing.assert_allclose(compiled, ndtri(keyed_uniform(key, *PAIRS)), rtol=2e-14, atol=1e-14)
    # Deep tails, by the words that lead there.
    for word in (0, 2**20, 2**40, 2**64 - 1):
        uniform = kernels.uniform(np.uint64(word))
        assert np.isclose(kernels.normal(np.uint64(word)), ndtri(uniform), rtol=1e-12)


def test_uniforms_are_uniform_and_independent_between_keys():
    one = keyed_uniform(stream_key(1, "fading", 0, 0), *PAIRS)
    other = keyed_uniform(stream_key(1, "fading", 0, 1), *PAIRS)
    assert stats.kstest(one, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(one, other)[0, 1]) < 3 / np.sqrt(3000)
    assert stats.kstest(keyed_normal(5, *PAIRS), "norm").pvalue > 1e-3


def test_pairs_are_symmetric_unless_ordered():
    assert np.array_equal(pair_words(3, *PAIRS), pair_words(3, *PAIRS[::-1]))
    assert not np.array_equal(pair_words(3, *PAIRS, ordered=True), pair_words(3, *PAIRS[::-1], ordered=True))
