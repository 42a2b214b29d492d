"""What the time of a profile is said to have gone to."""

import jax
import pytest

from benchmarks import device_trace

# Microseconds from the start, duration, kernel: two of them at the same time, a gap, one alone.
EVENTS = [
    (0, 40, "conv_of_blocks_input_gradient"),
    (30, 30, "ncclDevKernel_AllReduce_Sum_f32_RING_LL"),
    (40, 10, "loop_convert_fusion_3"),
    (80, 20, "sm90_xmma_fprop_implicit_gemm_bf16"),
]


def space(planes):
    """A profile: of each plane its name and (name of a line, its events)."""
    texts = []
    for number, (plane, lines) in enumerate(planes):
        names = sorted({name for _, events in lines for *_, name in events})
        metadata = "".join(
            f'event_metadata {{ key: {i} value {{ id: {i} name: "{name}" }} }}'
            for i, name in enumerate(names, 1)
        )
        text = ""
        for line, events in lines:
            each = "".join(
                f"events {{ metadata_id: {names.index(name) + 1} offset_ps: {start * 10**6} "
                f"duration_ps: {length * 10**6} }}"
                for start, length, name in events
            )
            text += f'lines {{ name: "{line}" timestamp_ns: 1000 {each} }}'
        texts.append(f'planes {{ id: {number} name: "{plane}" {text} {metadata} }}')
    text = " ".join(texts)
    return jax.profiler.ProfileData.from_serialized_xspace(
        jax.profiler.ProfileData.text_proto_to_serialized_xspace(text)
    )


def test_times_by_kind():
    data = space(
        [
            # The profiler says once more, on another line, which operations these were.
            ("/device:GPU:0", [("Stream #13(Compute)", EVENTS[:1]), ("Stream #20", EVENTS[1:]),
                               ("XLA Ops", [(0, 500, "conv")])]),
            ("/device:GPU:1", [("Stream #13(Compute)", [(7, 5, "MemcpyD2D")])]),
            ("/host:CPU", [("Stream of text", EVENTS)]),
        ]
    )  # fmt: skip
    first, second = device_trace.times_by_kind(data, steps=10).values()
    assert first == pytest.approx(
        {
            "span": 0.010,
            "all-reduce": 0.003,
            "own kernels": 0.004,
            "convolutions and products": 0.002,
            "other": 0.001,
            "computing": 0.007,
            "exposed all-reduce": 0.001,  # of 30 µs, 10 beside each of two others
            "idle": 0.002,
        }
    )
    assert second["other"] == second["span"] == pytest.approx(0.0005)


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("ncclDevKernel_AllGather_RING_LL", "all-reduce"),
        ("conv_relu_pool_weight_gradient", "own kernels"),
        ("cudnn_generated_fort_native_conv_wgrad", "convolutions and products"),
        ("nvjet_sm90_tst_256x128", "convolutions and products"),
        ("gemm_fusion_dot_17", "convolutions and products"),
        ("input_reduce_fusion_4", "other"),
        ("loop_convert_fusion", "other"),
        ("MemcpyD2D", "other"),
    ],
)
def test_kinds_of_kernels(kernel, kind):
    data = space([("/device:GPU:0", [("Stream #1", [(0, 10, kernel)])])])
    (times,) = device_trace.times_by_kind(data, 1).values()
    assert times[kind] == times["span"]


def test_a_profile_without_gpus():
    assert device_trace.times_by_kind(space([("/host:CPU", [("Stream", EVENTS)])]), 1) == {}
