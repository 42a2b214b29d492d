"""Pictures of real video: a mask lies where it is, with its outline around it."""

import numpy as np

from experiments import real_pictures


def test_a_mask_reddens_its_voxels_and_is_outlined():
    frame = np.full((144, 256, 3), 100, np.uint8)
    mask = np.zeros((144, 256), bool)
    mask[40:80, 60:120] = True
    found = real_pictures.masked(frame, mask)
    assert found.shape == (*real_pictures._SIZE, 3)
    np.testing.assert_array_equal(found[60, 90], (100 + real_pictures._RED.astype(int) + 1) // 2)
    np.testing.assert_array_equal(found[39, 90], real_pictures._OUTLINE)
    np.testing.assert_array_equal(found[10, 10], frame[10, 10])
    np.testing.assert_array_equal(frame, 100)  # the video is left as it was


def test_classes_of_camvid_side_by_side(tmp_path):
    """Four frames of each network, and the names of the colours below."""
    (tmp_path / "masks").mkdir()
    for number, file in enumerate(real_pictures.CAMVID.values()):
        labels = np.full((20, 64, 96), number, np.uint8)
        np.savez(tmp_path / "masks" / file, **{"camvid/a": labels, "camvid/b": labels})
    found = real_pictures.camvid_picture(tmp_path)
    shown = {tuple(color) for color in found.reshape(-1, 3)}
    wanted = real_pictures.colors.label_colors(len(real_pictures.CAMVID_CLASSES))
    assert {tuple(color) for color in wanted[:2]} <= shown
    assert found.shape[1] > 4 * 96
