import numpy as np
import pytest
from scipy import integrate

from channels.link import (
    CQI_EFFICIENCIES,
    CQI_THRESHOLDS_DB,
    cqi_efficiency,
    noise_power_dbm,
    packet_error_probability,
    packet_success_probability,
    rate_bps,
    shannon_rate_bps,
    sinr_for_rate,
    sinr_linear,
)


def test_noise():
    assert noise_power_dbm(1e6, 9) == pytest.approx(-105.0, abs=1e-9)
    np.testing.assert_allclose(noise_power_dbm([1e6, 1e7], 0), [-114, -104])
    with pytest.raises(ValueError, match="bandwidth_hz"):
        noise_power_dbm(0.0, 9)


def test_sinr_by_hand():
    gains = np.array([[1e-6, 2e-8, 0.0], [1e-9, 1e-7, 5e-9], [0.0, 0.0, 1e-8]])
    sinr = sinr_linear(gains, [0.1, 0.2, 0.3], [True, True, False], 1e-12)
    np.testing.assert_allclose(sinr, [1e-7 / (2e-10 + 1e-12), 2e-8 / (2e-9 + 1e-12), 0.0], rtol=1e-12)


def test_sinr_keeps_weak_interference_beside_a_strong_signal():
    gains = np.array([[1.0, 0.0], [1e-18, 1.0]])
    assert sinr_linear(gains, 1.0, [True, True], 0.0)[0] == pytest.approx(1e18)


def test_sinr_refuses_decibels_and_odd_shapes():
    with pytest.raises(ValueError, match="not dB"):
        sinr_linear([[-90.0]], 1.0, [True], 1e-12)
    with pytest.raises(ValueError, match="square"):
        sinr_linear(np.ones((2, 3)), 1.0, [True, True], 1e-12)


def test_shannon():
    assert shannon_rate_bps(3.0, 1e6) == pytest.approx(2e6)
    assert shannon_rate_bps(6.0, 1e6, gap_db=10 * np.log10(2)) == pytest.approx(2e6)
    with pytest.raises(ValueError, match="not dB"):
        shannon_rate_bps(-3.0, 1e6)


def test_cqi_steps():
    at = np.asarray(CQI_THRESHOLDS_DB)
    np.testing.assert_allclose(cqi_efficiency(at), CQI_EFFICIENCIES)
    np.testing.assert_allclose(cqi_efficiency(at - 1e-6), [0.0, *CQI_EFFICIENCIES[:-1]])
    assert cqi_efficiency(40.0) == 5.5547


@pytest.mark.parametrize("kind", ["shannon", "cqi"])
def test_sinr_for_rate_inverts(kind):
    sinr = 10 ** (np.linspace(-6, 19, 60) / 10)
    rate = rate_bps(kind, sinr, 2e6, 3.0)
    needed = sinr_for_rate(kind, rate, 2e6, 3.0)
    assert np.all(needed <= sinr * (1 + 1e-9))
    np.testing.assert_allclose(rate_bps(kind, needed * (1 + 1e-12), 2e6, 3.0), rate, rtol=1e-9)


def test_chen_check_values():
    error = packet_error_probability(10 ** (np.array([0.0, 10.0, 20.0]) / 10))
    np.testing.assert_allclose(error, [0.72147, 0.23421, 0.04499], atol=6e-6)
    assert packet_error_probability(0.0) == 1.0


def test_chen_closed_form_is_the_mean_over_rayleigh_fading():
    for mean in (0.5, 3.0, 40.0):
        success = integrate.quad(lambda h, g=mean: np.exp(-h) * packet_success_probability(g * h), 0, np.inf)[
            0
        ]
        assert 1 - success == pytest.approx(float(packet_error_probability(mean)), abs=2e-6)
