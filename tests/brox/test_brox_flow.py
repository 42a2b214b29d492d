"""Brox's flow: against a slow float64 reference, OpenCV's output, true flow; sizes, bad input."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import v2v_jax
import v2v_jax.brox.brox_flow as brox
from v2v_jax.brox.brox_flow import ACCURATE, brox_flow, grey_of_rgb
from v2v_jax.media.flow_files import read_flow

REAL = Path(os.environ.get("V2V_REAL_DATA", ""))
needs_real_data = pytest.mark.skipif(
    not os.environ.get("V2V_REAL_DATA") or not (REAL / "brox_golden").is_dir(),
    reason="V2V_REAL_DATA has no brox_golden folder",
)
PADDING = brox.MAX_PADDING
# Few iterations: these tests look at code paths, not at convergence.
QUICK = {"inner": 2, "solver": 3}


@pytest.fixture(autouse=True, scope="module")
def one_canvas():
    """All levels in one program: compiling is what takes the time here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(brox, "MAX_PADDING", 5.0)
        yield


def texture(size, shift=(0.0, 0.0), seed=0) -> np.ndarray:
    """(H,W) float32: random smooth waves, moved by (u, v) pixels without any interpolation."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    waves = [
        np.sin(a * (x - shift[0]) + b * (y - shift[1]) + phase)
        for a, b, phase in rng.uniform(-1, 1, (24, 3)) * (0.6, 0.6, np.pi)
    ]
    return (0.5 + 0.4 * np.mean(waves, 0) / np.abs(waves).mean()).clip(0, 1).astype(np.float32)


def grey(path: Path) -> np.ndarray:
    return grey_of_rgb(np.asarray(Image.open(path).convert("RGB")))


def endpoint_error(flow, truth, known=...) -> float:
    return float(np.linalg.norm(np.asarray(flow) - truth, axis=-1)[known].mean())


# ---- A slow reference, one pixel at a time, in float64 ------------------------------------------


def reference_derivative(x):
    """Along the columns."""
    n = x.shape[1]
    index = lambda i: 1 - i if i < 0 else (2 * n - 1 - i if i >= n else i)
    at = lambda i: x[:, index(i)]
    columns = [at(i - 2) - 8 * at(i - 1) + 8 * at(i + 1) - at(i + 2) for i in range(n)]
    return np.stack(columns, 1) / 12


def reference_derivatives(x):
    dx, dy = reference_derivative, lambda x: reference_derivative(x.T).T
    return [x, dx(x), dy(x), dx(dx(x)), dx(dy(x)), dy(dy(x))]


def reference_warp(x, u, v):
    h, w = x.shape
    mirrored = np.pad(x, ((h, h), (w, w)), "symmetric")
    out = np.zeros_like(x)
    for i, j in np.ndindex(h, w):
        y, z = i + v[i, j] + h, j + u[i, j] + w
        p, q = int(y), int(z)
        for k, a in ((p, 1 - y + p), (p + 1, y - p)):
            for m, b in ((q, 1 - z + q), (q + 1, z - q)):
                out[i, j] += a * b * mirrored[k, m]
    return out


def reference_edges(u, v):
    """(h,w+1): weight of the edge to the left of each pixel, 0 on the border."""
    h, w = u.shape
    out = np.zeros((h, w + 1))
    for i in range(h):
        above, below = max(i - 1, 0), min(i + 1, h - 1)
        for j in range(1, w):
            total = 1e-6
            for f in (u, v):
                along = f[below, j] + f[below, j - 1] - f[above, j] - f[above, j - 1]
                total += (f[i, j] - f[i, j - 1]) ** 2 + (along / 4) ** 2
            out[i, j] = 0.5 / np.sqrt(total)
    return out


def reference_relax(du, dv, u, v, edges_x, edges_y, equation, colour):
    """One colour of a sweep, in place. equation: D times (a, d, c, right-hand sides)."""
    h, w = u.shape
    a, d, c, ru, rv = equation
    for i, j in np.ndindex(h, w):
        if (i + j) % 2 != colour:
            continue
        edges = [
            (edges_x[i, j], i, j - 1),
            (edges_x[i, j + 1], i, j + 1),
            (edges_y[i, j], i - 1, j),
            (edges_y[i + 1, j], i + 1, j),
        ]
        edges = [(s, k, m) for s, k, m in edges if s > 0]
        total = sum(s for s, *_ in edges)
        pull = sum(s * (u[k, m] + du[k, m] - u[i, j]) for s, k, m in edges)
        new = (pull - ru[i, j] - c[i, j] * dv[i, j]) / (a[i, j] + total)
        du[i, j] += 1.99 * (new - du[i, j])
        pull = sum(s * (v[k, m] + dv[k, m] - v[i, j]) for s, k, m in edges)
        new = (pull - rv[i, j] - c[i, j] * du[i, j]) / (d[i, j] + total)
        dv[i, j] += 1.99 * (new - dv[i, j])


def reference_level(frame0, frame1, u, v, alpha, gamma, inner, solver):
    fields0 = reference_derivatives(frame0)
    i1, ix, iy, ixx, ixy, iyy = (reference_warp(f, u, v) for f in reference_derivatives(frame1))
    iz, ixz, iyz = i1 - fields0[0], ix - fields0[1], iy - fields0[2]
    du, dv = np.zeros_like(u), np.zeros_like(v)
    for _ in range(inner):
        q0 = iz + ix * du + iy * dv
        q1, q2 = ixz + ixx * du + ixy * dv, iyz + ixy * du + iyy * dv
        weight = 0.5 / np.sqrt(q0**2 + gamma * (q1**2 + q2**2) + 1e-6) / alpha
        equation = [
            weight * (x0 * y0 + gamma * (x1 * y1 + x2 * y2))
            for (x0, x1, x2), (y0, y1, y2) in (
                ((ix, ixx, ixy), (ix, ixx, ixy)),
                ((iy, ixy, iyy), (iy, ixy, iyy)),
                ((ix, ixx, ixy), (iy, ixy, iyy)),
                ((ix, ixx, ixy), (iz, ixz, iyz)),
                ((iy, ixy, iyy), (iz, ixz, iyz)),
            )
        ]
        edges_x = reference_edges(u + du, v + dv)
        edges_y = reference_edges((u + du).T, (v + dv).T).T
        for _ in range(solver):
            for colour in (0, 1):
                reference_relax(du, dv, u, v, edges_x, edges_y, equation, colour)
    return u + du, v + dv


def reference_flow(frame0, frame1, *, alpha, gamma, scale, inner, solver, warps, warped_levels=77):
    pyramid = [(frame0.astype(np.float64), frame1.astype(np.float64))]
    sizes = brox.pyramid_sizes(frame0.shape, scale, 77)
    for (h, w), (m, n) in zip(sizes, sizes[1:]):
        rows, columns = brox.shrinking(h, m, scale), brox.shrinking(w, n, scale)
        pyramid.append(tuple(rows @ f @ columns.T for f in pyramid[-1]))
    u = v = np.zeros(sizes[-1])
    for k in reversed(range(len(sizes))):
        if k + 1 < len(sizes):
            (h, w), (m, n) = sizes[k + 1], sizes[k]
            rows, columns = brox.enlarging(h, m, scale), brox.enlarging(w, n, scale)
            u, v = (rows @ f @ columns.T / scale for f in (u, v))
        once = k >= warped_levels
        for _ in range(1 if once else warps):
            recomputations = inner * warps if once else inner
            u, v = reference_level(*pyramid[k], u, v, alpha, gamma, recomputations, solver)
    return np.stack([u, v], -1)


@pytest.mark.parametrize(
    ("max_padding", "options"),
    [
        pytest.param(PADDING, {}, id="two canvases", marks=pytest.mark.slow),
        pytest.param(5.0, {}, id="one canvas"),
        pytest.param(5.0, {"warps": 2}, id="two warps"),
        pytest.param(
            *(5.0, {"warps": 2, "warped_levels": 1}),
            id="two warps, the finest level",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_equals_slow_reference(max_padding, options, monkeypatch):
    monkeypatch.setattr(brox, "MAX_PADDING", max_padding)
    size = 19, 22
    frames = texture(size), texture(size, (0.7, -0.4))
    settings = {"alpha": 0.1, "gamma": 20.0, "scale": 0.8, "warps": 1, "inner": 3, "solver": 4}
    settings |= options
    expected = reference_flow(*frames, **settings)
    assert np.abs(expected).max() > 0.3
    np.testing.assert_allclose(brox_flow(*frames, **settings), expected, atol=2e-3)


def test_resampling_matrices():
    """Their values, by hand, at an inner pixel and at both borders."""
    shrink = brox.shrinking(10, 8, 0.8)
    np.testing.assert_allclose(shrink.sum(1), 1, rtol=1e-6)
    # x = 5: from 3.75 to 6.25.
    np.testing.assert_allclose(shrink[4, 3:8], np.array([0.25, 1, 1, 1, 0.75]) / 4, rtol=1e-6)
    np.testing.assert_allclose(shrink[0, :3], np.array([1, 1, 0.75]) / 2.75, rtol=1e-6)
    # x = 8.75: from 7.5 to 9, the last pixel, whose weight ⌈e⌉ - e is then 0.
    np.testing.assert_allclose(shrink[7, 6:], np.array([0, 0.5, 1, 0]) / 1.5, rtol=1e-6)
    grow = brox.enlarging(8, 10, 0.8)
    np.testing.assert_allclose(grow.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(grow[5], np.eye(8)[4], atol=1e-6)  # x = 4
    line = np.arange(8.0)  # Catmull-Rom reproduces a straight line away from the borders
    np.testing.assert_allclose((grow @ line)[2:8], 0.8 * np.arange(2, 8), rtol=1e-5)


def test_pyramid_sizes():
    sizes = brox.pyramid_sizes((240, 320), 0.8, 77)
    assert sizes[:4] == [(240, 320), (192, 256), (154, 205), (123, 164)]
    assert len(sizes) == 14 and min(sizes[-1]) <= 15 < min(sizes[-2])
    assert len(brox.pyramid_sizes((240, 320), 0.8, 3)) == 3
    assert brox.pyramid_sizes((16, 16), 0.8, 77) == [(16, 16), (13, 13)]


def test_grey_of_rgb():
    rgb = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), np.uint8)
    exact = np.floor((rgb.astype(np.int64) @ (9797, 19234, 3737)) / 2**15) / 255
    grey = grey_of_rgb(rgb)
    assert isinstance(grey, np.ndarray) and grey.dtype == np.float32
    np.testing.assert_allclose(grey, exact, rtol=2e-7)
    np.testing.assert_allclose(grey_of_rgb(jnp.asarray(rgb)), grey, rtol=2e-7)
    assert grey_of_rgb(np.full((1, 1, 3), 255, np.uint8)) == 1
    for bad in (rgb / 255, rgb[..., :1], np.uint8(3)):
        with pytest.raises(ValueError, match="grey_of_rgb: RGB is"):
            grey_of_rgb(bad)


def test_package_offers_it():
    assert v2v_jax.brox_flow is brox_flow and "brox_flow" in dir(v2v_jax)
    with pytest.raises(AttributeError, match="no attribute 'brax_flow'"):
        _ = v2v_jax.brax_flow


# ---- Behaviour ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moved():
    """Three pairs of 48×64 frames, their motion (3,2), and the flow of all in one batch."""
    motion = np.array([(1.0, 0.0), (-0.6, 1.3), (4.0, -3.0)])
    frame0 = np.stack([texture((48, 64), seed=i) for i in range(3)])
    frame1 = np.stack([texture((48, 64), shift, seed=i) for i, shift in enumerate(motion)])
    return frame0, frame1, motion, np.asarray(brox_flow(frame0, frame1))


def test_finds_translation(moved):
    _, _, motion, flow = moved
    assert flow.shape == (3, 48, 64, 2) and flow.dtype == np.float32
    inner = flow[:, 8:-8, 8:-8]
    errors = np.linalg.norm(inner - motion[:, None, None], axis=-1).mean((1, 2))
    assert errors.max() < 0.05, errors


def test_batch_equals_its_pairs(moved):
    frame0, frame1, _, flow = moved
    for a, b, together in zip(frame0, frame1, flow):
        alone = brox_flow(a, b)
        assert alone.shape == (48, 64, 2)
        np.testing.assert_allclose(alone, together, atol=2e-3)


def test_identical_frames_do_not_move():
    frame = texture((48, 64))
    assert np.abs(brox_flow(frame, frame)).max() < 1e-3


def test_flat_frames_do_not_move():
    frame = np.full((48, 64), 0.5, np.float32)
    assert np.abs(brox_flow(frame, frame)).max() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("size", [(16, 16), (17, 31), (16, 61)])
def test_small_and_odd_sizes(size):
    motion = np.array((0.4, -0.3))
    flow = brox_flow(texture(size), texture(size, motion), inner=5)
    assert flow.shape == (*size, 2)
    assert endpoint_error(flow, np.broadcast_to(motion, flow.shape)) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"outer": 1}, {"scale": 0.5}, {"scale": 0.03}, {"gamma": 0}])
def test_other_parameters(settings):
    frames = texture((20, 24)), texture((20, 24), (0.3, 0.2))
    assert np.isfinite(brox_flow(*frames, **(QUICK | settings))).all()


def test_noise_stays_finite():
    frames = np.random.default_rng(0).uniform(size=(2, 48, 64)).astype(np.float32)
    assert np.isfinite(brox_flow(*frames)).all()


def test_has_no_gradient():
    frames = texture((16, 16)), texture((16, 16), (0.5, 0.0))
    loss = lambda a, b: brox_flow(a, b, **QUICK).sum()
    assert all(not g.any() for g in jax.grad(loss, (0, 1))(*frames))


def test_compiles_once_a_shape_and_within_jit():
    frames = texture((16, 16)), texture((16, 16), (0.5, 0.0))
    first = brox_flow(*frames, **QUICK)
    compiled = brox._flow_of_any_counts._cache_size()
    brox_flow(*frames[::-1], **QUICK, alpha=0.1, gamma=10)
    assert brox._flow_of_any_counts._cache_size() == compiled
    inside = jax.jit(lambda a, b: brox_flow(a, b, **QUICK))(*frames)
    np.testing.assert_allclose(inside, first, atol=2e-3)


# ---- Bad input ----------------------------------------------------------------------------------

GOOD = np.full((16, 20), 0.5, np.float32)


@pytest.mark.parametrize(
    ("frame0", "frame1", "message"),
    [
        (GOOD, GOOD[:, :-1], "shapes differ"),
        (GOOD[:15], GOOD[:15], "16 pixels a side"),
        (np.zeros((0, 16, 16), np.float32),) * 2 + ("16 pixels a side",),
        (np.zeros((16, 16, 3), np.float32),) * 2 + ("16 pixels a side",),
        (np.zeros((1, 16, 16, 1), np.float32),) * 2 + ("(B,H,W)",),
        ((GOOD * 255).astype(np.uint8), GOOD, "frame0 must be float grey"),
        (GOOD, GOOD * 255, "frame1 must be grey in [0,1]"),
        (GOOD, jnp.full((16, 20), -0.5), "frame1 must be grey in [0,1]"),
        (GOOD, np.where(np.eye(16, 20) > 0, np.nan, GOOD), "frame1 must be grey in [0,1]"),
    ],
)
def test_bad_frames(frame0, frame1, message):
    with pytest.raises(ValueError) as caught:
        brox_flow(frame0, frame1)
    assert message in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 0},
        {"alpha": float("nan")},
        {"gamma": -1},
        {"scale": 1.0},
        {"inner": 0},
        {"outer": 0},
        {"solver": 2.5},
        {"warps": -1},
        {"warped_levels": 0},
    ],
)
def test_bad_parameters(settings):
    with pytest.raises(ValueError, match=f"brox_flow: {next(iter(settings))} must"):
        brox_flow(GOOD, GOOD, **settings)


# ---- Real frames --------------------------------------------------------------------------------


@needs_real_data
def test_equals_opencv(monkeypatch):
    """OpenCV's own two reference files differ from each other by 0.0059 px."""
    monkeypatch.setattr(brox, "MAX_PADDING", PADDING)
    folder = REAL / "brox_golden"
    stored = (folder / "brox_optical_flow_cc20.bin").read_bytes()
    size = np.frombuffer(stored, "<i4", 2)
    golden = np.moveaxis(np.frombuffer(stored, "<f4", offset=8).reshape(2, *size), 0, -1)
    flow = brox_flow(grey(folder / "frame0.png"), grey(folder / "frame1.png"))
    assert endpoint_error(flow, golden) < 0.008


@pytest.mark.slow
@needs_real_data
def test_error_on_rubber_whale(monkeypatch):
    monkeypatch.setattr(brox, "MAX_PADDING", PADDING)
    folder = REAL / "middlebury" / "RubberWhale"
    truth, known = read_flow(folder / "RubberWhale.flo")
    frames = grey(folder / "RubberWhale1.png"), grey(folder / "RubberWhale2.png")
    assert endpoint_error(brox_flow(*frames), truth, known) == pytest.approx(0.164, abs=0.003)
    assert endpoint_error(brox_flow(*frames, **ACCURATE), truth, known) < 0.13


@pytest.mark.slow
@needs_real_data
@pytest.mark.parametrize("name", ["clean/alley_2/2", "final/temple_3/22"])
def test_accurate_is_better_on_sintel(name, monkeypatch):
    monkeypatch.setattr(brox, "MAX_PADDING", PADDING)
    rendering, sequence, frame = name.split("/")
    folder, frame = REAL / "sintel" / "training", int(frame)
    truth, known = read_flow(folder / "flow" / sequence / f"frame_{frame:04}.flo")
    invalid = Image.open(folder / "invalid" / sequence / f"frame_{frame:04}.png").convert("L")
    known &= np.asarray(invalid) == 0
    frames = [grey(folder / rendering / sequence / f"frame_{frame + k:04}.png") for k in (0, 1)]
    better = endpoint_error(brox_flow(*frames, **ACCURATE), truth, known)
    assert better < endpoint_error(brox_flow(*frames), truth, known)
