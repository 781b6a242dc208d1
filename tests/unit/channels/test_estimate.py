import numpy as np
import pytest

from channels.estimate import nearest_transfers


@pytest.mark.parametrize("neighbours", [1, 3, 50])
def test_devices_on_one_spot_send_to_each_other_and_not_to_themselves(neighbours):
    place = np.repeat(np.random.default_rng(0).random((6, 2)) * 100, 8, axis=0)
    place = np.concatenate([place, [[500.0, 0.0], [501.0, 0.0]]])
    transfers = nearest_transfers(place, neighbours, 100)
    count = min(neighbours, 49)
    assert np.array_equal(transfers.source, np.repeat(np.arange(50), count))
    assert (transfers.source != transfers.destination).all()
    apart = np.hypot(*(place[:, None] - place).transpose(2, 0, 1))
    np.fill_diagonal(apart, np.inf)
    found = apart[transfers.source, transfers.destination].reshape(50, count)
    np.testing.assert_allclose(found, np.sort(apart, axis=1)[:, :count])
    assert len(set(zip(transfers.source.tolist(), transfers.destination.tolist(), strict=True))) == 50 * count
