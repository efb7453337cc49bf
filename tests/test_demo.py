import contextlib
import io
from types import SimpleNamespace

import naive
import numba
import numpy as np
import pytest
from rich.console import Console

from numbadense import activations, demo, report
from numbadense._engine import threads
from numbadense._engine.cuda import device

U = 2.0**-24  # unit roundoff of float32


@pytest.fixture(scope="module")
def climbed():
    return demo.run(rounds=1, copies=2)


def error_bound(network, x):
    """Return the most that float32 outputs, summed in any order, can be from the exact ones.

    A dot product of length k and a bias are within (k + 1) u (|a| @ |w| + |b|) of exact; the error of the layer before
    passes through |w|; a sigmoid shrinks both by 4 and adds its own.
    """
    own = max(activations.get("sigmoid").max_ulp["float32"], 4 + 2) * 2 * U  # NumPy's: exp within 4 ULP, then + and /
    a, error = x.astype(np.float64), np.zeros(x.shape)
    for layer in network.layers:
        w, b = layer.w.astype(np.float64), layer.b.astype(np.float64)
        inherited = error @ abs(w)
        rounded = (len(w) + 1) * U * ((abs(a) + error) @ abs(w) + abs(b))
        a, error = 1 / (1 + np.exp(-(a @ w + b))), (inherited + rounded) / 4 + own
    return error.max()


def test_the_loop_is_the_lessons(climbed):
    layer = climbed.network.layers[0]
    for image in climbed.images[:3] / np.float32(16):
        expected = np.array(naive.dense(image, layer.w, layer.b, "sigmoid"), np.float64)
        np.testing.assert_allclose(demo.loop(image, layer.w, layer.b), expected, rtol=0, atol=1e-5)


def test_every_rung_gives_the_same_answer(climbed):
    bound = 2 * error_bound(climbed.network, climbed.images / 16)
    assert bound < 0.01
    for rung in climbed.rungs:
        assert rung.max_abs_difference <= bound
        assert rung.accuracy == climbed.rungs[0].accuracy


def test_about_97_percent_of_the_held_out_digits_are_read(climbed):
    assert len(climbed.images) >= 300
    assert np.mean(climbed.predicted == climbed.labels) == climbed.rungs[0].accuracy >= 0.95


def test_held_out_images_are_digits_of_all_kinds(climbed):
    assert climbed.images.shape == (len(climbed.labels), 64)
    assert climbed.images.dtype == np.uint8
    assert climbed.images.max() == 16
    counts = np.bincount(climbed.labels)
    assert len(counts) == 10
    assert counts.min() >= 40


def test_the_ladder_climbs_from_the_loop_to_parallel_kernels(climbed):
    names = [rung.name for rung in climbed.rungs]
    assert names[:3] == ["loop over neurons", "np.matmul", "numbadense, 1 thread"]
    if threads.limit() > 1 and threads.layer() != "workqueue":
        assert names[3] == f"numbadense, {threads.limit()} threads"
    else:
        assert any(note.startswith("There is no parallel rung: ") for note in climbed.notes)
    n = len(climbed.images)
    assert [rung.rows for rung in climbed.rungs] == [n] + [2 * n] * (len(names) - 1)


def test_times_and_speed_ups_agree(climbed):
    first = climbed.rungs[0]
    assert first.speedup == 1
    for rung in climbed.rungs:
        assert rung.seconds > 0
        assert rung.speedup == pytest.approx(first.seconds_per_image / rung.seconds_per_image)


def test_rungs_take_turns_down_and_up():
    calls = []
    ticks = iter(range(10**6))

    def rung(name):
        return lambda: calls.append((name, next(ticks)))

    seconds = demo._times([rung("a"), rung("b")], rounds=2)
    turns = [name for i, (name, _) in enumerate(calls) if i == 0 or calls[i - 1][0] != name]
    assert turns == ["a", "b", "a"]  # b ends the first round and begins the second
    assert all(0 < each < demo.TURN for each in seconds)


def test_first_use_is_inside_the_context_and_timing_is_outside(monkeypatch):
    events = []

    @contextlib.contextmanager
    def while_compiling(cached):
        events.append(("enter", cached))
        yield
        events.append("leave")

    monkeypatch.setattr(demo, "_times", lambda calls, rounds: events.append("times") or [1.0] * len(calls))
    demo.run(copies=1, while_compiling=while_compiling)
    assert events == [("enter", True), "leave", ("enter", False), "leave", "times"]


def test_a_device_adds_two_rungs(monkeypatch):
    class OnDevice:
        def __init__(self, array):
            self.copy_to_host = lambda: array

    def on_device(x):
        return OnDevice(climb(x.copy_to_host())) if isinstance(x, OnDevice) else climb(x)

    def climb(x):
        return demo._by_loops(x, [(layer.w, layer.b) for layer in network.layers])

    network = demo.load(demo.DATA / "digits.safetensors")
    x = np.eye(2, 64, dtype=np.float32)
    fake = SimpleNamespace(to_device=OnDevice, synchronize=lambda: synchronized.append(True))
    synchronized = []
    monkeypatch.setattr(numba, "cuda", fake, raising=False)
    monkeypatch.setattr(device, "why_not", lambda: None)
    monkeypatch.setattr(device, "simulated", lambda: False)
    monkeypatch.setattr(type(network), "to", lambda self, where: on_device)
    ways, notes = demo._cuda_ways(network, x, 3)
    assert notes == []
    assert [(way.name, way.rows) for way in ways] == [("numbadense, CUDA", 6), ("CUDA, data on device", 6)]
    for way in ways:
        np.testing.assert_array_equal(demo._on_host(way.call()), np.tile(climb(x), (3, 1)))
    assert synchronized == [True]


def test_a_plan_without_threads_is_a_note(monkeypatch):
    monkeypatch.setenv("NUMBADENSE_THREADS", "1")
    network = demo.load(demo.DATA / "digits.safetensors")
    ways, notes = demo._ways(network, np.zeros((1, 64), np.float32), 1)
    assert len(ways) == 3
    assert notes == ["There is no parallel rung: one thread allowed."]


def test_the_simulator_is_no_rung(monkeypatch):
    monkeypatch.setattr(device, "simulated", lambda: True)
    assert demo._cuda_ways(None, None, 1) == ([], ["There is no CUDA rung: the simulator is no device."])


def test_examples_are_different_digits_and_at_the_end_a_mistake(climbed):
    examples = climbed.examples(6)
    assert len(examples) == 6
    *right, wrong = examples
    assert len({int(climbed.labels[i]) for i in right}) == 5
    assert all(climbed.predicted[i] == climbed.labels[i] for i in right)
    assert climbed.predicted[wrong] != climbed.labels[wrong]


def test_an_image_is_drawn_in_shades():
    image = np.zeros(64, np.uint8)
    image[:5] = 0, 4, 8, 12, 16
    lines = report.draw(image, report.SHADES)
    assert lines[0] == "  \u2591\u2591\u2592\u2592\u2593\u2593\u2588\u2588      "
    assert lines[1:] == [16 * " "] * 7


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("utf-8", report.SHADES), ("cp437", report.SHADES), ("ascii", report.ASCII_SHADES), ("no such", " .:*#")],
)
def test_shades_are_those_that_the_encoding_has(encoding, expected):
    assert report.shades(encoding) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (55.4e-6, "55.4 us"), (3.21e-8, "32.1 ns")]
)
def test_durations_have_three_digits_and_a_unit(seconds, expected):
    assert report.duration(seconds) == expected


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_the_report_fits_the_terminal(climbed, encoding, width):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)  # strict: what cannot be encoded would raise
    report.show_demo(climbed, Console(file=stream, width=width, highlight=False))
    stream.flush()
    lines = raw.getvalue().decode(encoding).splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert text.count(" is ") >= min(10, (width + 2) // 18)
    if width >= 80:
        assert all(rung.name in text for rung in climbed.rungs)
        assert "98.22%" in text
        assert "numbadense, 1 thread" in text


def test_a_note_is_printed_to_the_letter(climbed):
    from dataclasses import replace

    from rich.console import Console

    console = Console(record=True, width=200, file=io.StringIO())
    report.show_demo(replace(climbed, notes=('pip install "numbadense[cuda13]"',)), console)
    assert 'pip install "numbadense[cuda13]"' in console.export_text()
