"""The page of a dataset to look at: what is drawn, in which colours, and what is left out."""

import base64
import io
import re

import numpy as np
from PIL import Image

from v2v_jax.datasets.base.video_dataset import IGNORE_LABEL, VideoDataset, VideoInfo
from v2v_jax.errors import CorruptVideoError
from v2v_jax.evaluation.contact_sheet import Samples, contact_sheet, draw_samples
from v2v_jax.evaluation.report.tables import Row, Table

SIZE = (100, 200)  # drawn as large as it is


class Same(VideoDataset):
    """So many videos with the same frames; number `broken` cannot be read."""

    name = "same"
    label_names = ("background", "foreground")
    frame_size = SIZE

    def __init__(self, count=3, length=11, broken=None, **fields):
        video = np.full((length, *SIZE, 3), 60, np.uint8)
        self.arrays, self.broken = {"video": video, **fields}, broken
        self.fields = tuple(self.arrays)
        self.videos = [VideoInfo(f"v{index}.avi", length) for index in range(count)]

    def read(self, video, start, stop, fields=("video",)):
        if video == self.broken:
            raise CorruptVideoError("broken")
        return {field: self.arrays[field][start:stop] for field in fields}


def test_masks_lie_over_the_video_and_the_legend_says_what_they_are():
    labels = np.zeros((11, *SIZE), np.uint8)
    labels[:, :, 100:], labels[:, :20] = 1, IGNORE_LABEL
    drawn = draw_samples(Same(labels=labels), ("video", "labels"))
    assert len(drawn.samples) == 3 and drawn.samples[0].name.endswith("11 frames")
    (legend,) = drawn.legends
    assert legend.names[-1] == "ignored"
    picture = drawn.samples[0].picture
    shown = {tuple(color) for color in picture.reshape(-1, 3)}
    assert {(158, 135, 30), (60, 60, 60)} <= shown  # half of it yellow; the video alone
    assert (30, 30, 30) not in shown  # nothing is darkened by the background's black


def test_flow_has_one_scale_for_all_videos():
    flow, valid = np.zeros((11, *SIZE, 2), np.float16), np.ones((11, *SIZE), bool)
    flow[..., 0], valid[:, :10] = 3.0, False
    flow[:, 50, 50] = 100.0  # one wild voxel of a frame does not set the scale
    drawn = draw_samples(Same(flow=flow, flow_valid=valid), ("video", "flow", "flow_valid"))
    (legend,) = drawn.legends
    assert " 3 px/frame" in legend.text
    picture = drawn.samples[0].picture.reshape(-1, 3)
    assert (picture == (255, 0, 0)).all(-1).any()  # at full speed to the right
    assert drawn.black.startswith("Black: the flow is not known")


def test_videos_are_spread_and_those_that_cannot_be_read_are_left_out():
    source = Same(9, broken=4)
    drawn = draw_samples(source, ("video",), count=3)
    names = [source.videos[index].name for index in (0, 8)]
    assert [sample.name.split(",")[0] for sample in drawn.samples] == names
    assert not drawn.legends and not drawn.black


def test_the_page_holds_its_pictures_and_escapes_what_it_is_given():
    drawn = draw_samples(Same(1), ("video",))
    table = Table("All splits", ("", "train"), [Row("videos", ["1"])])
    problems = {"train": ["<b>x.mp4</b> cannot be read"], "test": []}
    page = contact_sheet("my data", table, problems, {"train": drawn, "test": Samples((), ())})
    assert "&lt;b&gt;x.mp4&lt;/b&gt; cannot be read" in page and "1 problem<" in page
    assert "No video of this split can be drawn." in page
    (data,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == drawn.samples[0].picture.shape[1::-1]
    assert "http" not in page.replace("http://www.w3.org", "")
