import json
import pickle
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import numbadense as nd
from numbadense import activations


def network(dtype=np.float32):
    rng = np.random.default_rng(0)
    return nd.Sequential(
        [
            nd.Dense(rng.standard_normal((4, 9)).astype(dtype), rng.standard_normal(9).astype(dtype), "relu"),
            nd.Dense(rng.standard_normal((9, 3)).astype(dtype), None, "softmax"),
        ],
        {"trained on": "nothing at all"},
    )


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "net.safetensors"
    network().save(file)
    return file


def header_of(content):
    size = struct.unpack("<Q", content[:8])[0]
    return size, json.loads(content[8 : 8 + size])


def with_header(content, change):
    """The file again, with its header changed."""
    size, header = header_of(content)
    header = change(header) or header
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def describe(text):
    """A change of the header: another description of the network."""
    return lambda header: header["__metadata__"].update(numbadense=text)


def refused(path, content, text):
    path.write_bytes(content)
    with pytest.raises(nd.ModelFormatError, match=text) as caught:
        nd.load(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_network_comes_back_as_it_was(dtype, tmp_path):
    net = network(dtype)
    net.save(tmp_path / "net.safetensors")
    back = nd.load(str(tmp_path / "net.safetensors"))
    x = np.random.default_rng(1).standard_normal((6, 4)).astype(dtype)
    assert back.dtype == dtype and back.metadata == net.metadata
    assert [layer.activation.name for layer in back.layers] == ["relu", "softmax"]
    assert back.layers[1].b is None
    assert np.array_equal(back(x), net(x))
    nd.save(back, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "net.safetensors").read_bytes()


def test_transposed_and_read_only_weights_are_saved_as_they_look(tmp_path):
    w = np.arange(12.0).reshape(3, 4).T
    nd.Sequential([nd.Dense(w)]).save(tmp_path / "net.safetensors")
    assert np.array_equal(nd.load(tmp_path / "net.safetensors").layers[0].w, w)


def test_loaded_weights_are_memory_mapped(path):
    w = nd.load(path).layers[0].w
    base = w
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap) and not w.flags.writeable and not w.flags.owndata


def test_half_precision_weights_are_computed_in_single(path):
    tensors = {"layers.0.w": np.eye(3, dtype=np.float16)}
    metadata = {"numbadense": json.dumps({"version": 1, "layers": [{"activation": "relu"}], "metadata": {}})}
    path.write_bytes(safetensors.numpy.save(tensors, metadata))
    net = nd.load(path)
    assert net.dtype == np.float32 and net([1, -2, 3]).tolist() == [1, 0, 3]


def test_a_users_activation_is_saved_by_name(path):
    @nd.activation
    def saved_by_name(x):
        return x + x

    nd.Sequential([nd.Dense(np.eye(2), None, saved_by_name)]).save(path)
    assert nd.load(path)([1.0, 2.0]).tolist() == [2.0, 4.0]
    del activations.REGISTRY["saved_by_name"], activations._NAMES["saved_by_name"]
    with pytest.raises(
        nd.ModelFormatError,
        match=r"uses an activation that is not registered: no activation is called 'saved_by_name': .* "
        r"If it is your own, register it with @numbadense\.activation before loading\.",
    ):
        nd.load(path)


def test_every_truncation_is_refused(path):
    content = path.read_bytes()
    size, _ = header_of(content)
    for length in {0, 1, 7, 8, 9, 8 + size // 2, 8 + size, 9 + size, len(content) - 4, len(content) - 1}:
        refused(path, content[:length], "is empty" if length == 0 else "is not a whole safetensors file")


def test_trailing_bytes_are_refused(path):
    refused(path, path.read_bytes() + b"more", "is not a whole safetensors file")


@pytest.mark.parametrize(
    "change,text",
    [
        (lambda h: h.pop("__metadata__") and None, r"has 2 dense layers \(layers\.0, layers\.1\) and does not"),
        (describe('{"version": 2}'), "has format version 2 but this release reads 1; upgrade numbadense"),
        (describe("{"), "has a description that cannot be read"),
        (describe("[1]"), "has a description that cannot be read"),
        (describe("[" * 100_000), "has a description that cannot be read"),
        (describe('{"version": 1, "layers": [{}]}'), "has a description that cannot be read"),
        (
            describe('{"version": 1, "layers": [{"activation": 1}], "metadata": {}}'),
            "has a description that cannot be read",
        ),
        (describe('{"version": 1, "layers": [], "metadata": {}}'), "has a tensor layers.0.b but describes 0 layers"),
        (
            describe('{"version": 1, "layers": [' + ", ".join(['{"activation": "relu"}'] * 3) + '], "metadata": {}}'),
            r"has no tensor layers\.2\.w but describes 3 layers",
        ),
        (lambda h: h["layers.1.w"].update(shape=[3, 9]), r"does not describe a network: layer 1 takes 3 features but"),
        (lambda h: h["layers.1.w"].update(shape=[27]), r"does not describe a network: w has 1 dimension"),
        (
            lambda h: h["layers.0.w"].update(dtype="I32"),
            r"has tensor layers\.0\.w of dtype I32 but networks are kept as",
        ),
    ],
)
def test_headers_that_do_not_fit_are_refused(path, change, text):
    refused(path, with_header(path.read_bytes(), change), text)


def test_a_pickle_is_never_loaded(path):
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("a pickle was loaded",)

    refused(path, pickle.dumps(Bomb()), "is not a whole safetensors file")


def test_other_suffixes_are_refused(tmp_path):
    text = r"net\.npz has the suffix '\.npz' but networks are kept as .*\.safetensors.*; convert it\.$"
    with pytest.raises(nd.ModelFormatError, match=text):
        nd.load(tmp_path / "net.npz")
    text = r"net\.npz has the suffix '\.npz' but networks are written as .*\.safetensors; name it so\.$"
    with pytest.raises(nd.ModelFormatError, match=text):
        network().save(tmp_path / "net.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["net.pt", "net.PTH", "net.pkl", "net.joblib"])
def test_pickles_are_refused_with_the_lines_that_convert_them(name, tmp_path):
    with pytest.raises(nd.ModelFormatError, match=r"is a pickle, which runs code .* with \S+: (from|import) "):
        nd.load(tmp_path / name)


def test_an_object_that_is_no_network_is_refused():
    with pytest.raises(nd.ModelFormatError, match=r"a builtins\.object is not a network that can be read: pass a file"):
        nd.load(object())


def test_an_option_that_the_file_answers_itself_is_refused(path):
    with pytest.raises(nd.OptionError, match=r"activations is given for .*safetensors, which says that itself; leave"):
        nd.load(path, activations=["relu"])


def test_weights_are_converted_on_request(path):
    assert nd.load(path, dtype="float32").dtype == np.float32
    assert nd.load(path, dtype="bfloat16").storage == "bfloat16"


def test_a_file_keeps_examples_and_the_network_is_tried_with_them(path):
    net, x = network(), np.random.default_rng(0).standard_normal((5, network().n_in))
    net.save(path, examples=x)
    loaded = nd.load(path)
    assert np.array_equal(loaded(x), net(x)) and len(loaded.layers) == len(net.layers)
    net.save(path, examples=x[0])  # one row
    nd.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_examples_may_hold_what_comes_out_as_no_number(path, value):
    network().save(path, examples=np.full((2, network().n_in), value))
    nd.load(path)


def test_a_network_that_gives_something_else_than_its_examples_is_refused(path):
    x = np.random.default_rng(0).standard_normal((5, network().n_in))
    network().save(path, examples=x)
    tensors = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    tensors["examples.y"] = np.nextafter(tensors["examples.y"], 1)  # as another machine might round
    safetensors.numpy.save_file(tensors, path, metadata)
    nd.load(path)
    tensors["examples.y"][3, 2] *= 1 + 1e-3
    safetensors.numpy.save_file(tensors, path, metadata)
    with pytest.raises(nd.ModelFormatError, match=r"output 2 of row 3 is \S+ but was \S+ when it was saved"):
        nd.load(path)
    del tensors["examples.y"]
    safetensors.numpy.save_file(tensors, path, metadata)
    with pytest.raises(nd.ModelFormatError, match="examples without their results"):
        nd.load(path)


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        nd.load(tmp_path / "net.safetensors")


@given(st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4))
def test_a_mutated_file_is_refused_or_is_a_network(tmp_path_factory, mutations):
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    network().save(path)
    content = bytearray(path.read_bytes())
    for place, change in mutations:
        place %= len(content)
        content[place : place + len(change)] = change
    path.write_bytes(content)
    try:
        net = nd.load(path)
    except nd.ModelFormatError:
        return
    except nd.NonFiniteWarning:
        return
    assert net(np.ones((2, net.n_in))).shape == (2, net.n_out)


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space left"):
        nd.Sequential([nd.Dense(np.eye(2))]).save(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]
