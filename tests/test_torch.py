"""PyTorch: modules as they look from outside, kept beside their outputs, and modules of PyTorch itself where it is."""

import copy
import functools
import importlib.util
import json
import os
import random
import re
import shutil
import time
from pathlib import Path

import mutations
import numpy as np
import pytest
import safetensors.numpy

import numbadense as nd

GOLDEN = Path(__file__).parent / "golden" / "torch"
CASES = [
    ("mlp_relu", ("Flatten", "Linear", "ReLU", "Dropout")),
    ("batch_norm", ("BatchNorm1d", "Linear", "ReLU", "Softmax")),
    ("rectifiers", ("Linear", "ReLU6", "LeakyReLU", "PReLU", "RReLU", "Threshold")),
    ("exponentials", ("Linear", "ELU", "CELU", "SELU", "SiLU", "Mish", "GELU")),
    (
        "sigmoids",
        ("Linear", "Sigmoid", "LogSigmoid", "Tanh", "Hardtanh", "Hardsigmoid", "Hardswish", "Softsign", "Softplus"),
    ),
    ("shrinks", ("Linear", "Softshrink", "Hardshrink")),
    ("nested", ("Sequential", "Linear", "Identity", "AlphaDropout", "ELU", "FeatureAlphaDropout", "LogSoftmax")),
    ("softmin", ("Linear", "Dropout1d", "Softmin")),
]
FILES = [(dtype, ("state_dict", dtype)) for dtype in ("float32", "float64", "float16", "bfloat16")]
ACTIVATIONS = ["gelu", "elu", None]


@functools.cache
def golden():
    with np.load(GOLDEN / "arrays.npz") as arrays:
        return dict(arrays), json.loads((GOLDEN / "modules.json").read_text())["modules"]


@functools.cache
def torch_class(module, name):
    """A class that looks like one of PyTorch's."""
    base = torch_class("torch.nn.modules.module", "Module") if name != "Module" else object
    return type(name, (base,), {"__module__": module, "forward": lambda self, x: pytest.fail("forward is not to run")})


def module_like(node):
    """An object that looks from outside as a module of PyTorch did."""
    module = torch_class(node["module"], node["class"])()
    arrays = golden()[0]
    tensors = {name: None if key is None else arrays[key] for name, key in node["tensors"].items()}
    vars(module).update(node["attributes"], **tensors, _forward_hooks={}, _forward_pre_hooks={})
    module._modules = {name: module_like(child) for name, child in node["children"]}
    return module


def assert_agrees(net, x, expected):
    """Both are within the bound, and what folding rounds is no more than sums round: four of it.

    In float64 the wrong activation anywhere in a case would be further off by a factor of a million at least.
    """
    x = x.astype(expected.dtype)
    bound = 4 * nd.testing.error_bound(x, net.layers, expected.dtype)
    assert net.dtype == expected.dtype and (abs(net(x) - expected.astype(np.longdouble)) <= bound).all()


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(("name", "kinds"), CASES, ids=[name for name, _ in CASES])
def test_golden(name, kinds, bits):
    arrays, modules = golden()
    net = nd.load(module_like(modules[name]), dtype=f"float{bits}")
    assert_agrees(net, arrays["x"], arrays[f"{name}:{bits}"])
    assert set(kinds) <= set(re.findall(r'"class": "(\w+)"', json.dumps(modules[name])))


def test_every_kind_is_in_a_case():
    from numbadense.io import torch

    assert {kind for _, kinds in CASES for kind in kinds} == set(torch.SUPPORTED)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(("name", "kinds"), FILES, ids=[name for name, _ in FILES])
def test_golden_file(name, kinds, bits):
    arrays, _ = golden()
    path = GOLDEN / f"state_dict_{name}.safetensors"
    net = nd.load(path, activations=ACTIVATIONS, dtype=f"float{bits}")
    assert_agrees(net, arrays["x"], arrays[f"{name}:{bits}"])
    assert net.metadata == {"source": "torch"}
    assert nd.load(path, activations=ACTIVATIONS).dtype == (np.float64 if name == "float64" else np.float32)


def test_a_file_of_weights_says_how_many_layers_it_has():
    path = GOLDEN / "state_dict_float32.safetensors"
    with pytest.raises(
        nd.ModelFormatError, match=r"float32\.safetensors has 3 dense layers \(0, 2, 4\) and does not say"
    ):
        nd.load(path)
    for activations, text in [
        (["relu"], r"3 dense layers \(0, 2, 4\) but activations has 1: \['relu'\]; pass activations=\['relu', 'relu',"),
        ("relu", r"but activations is 'relu', which is no list with one for each"),
    ]:
        with pytest.raises(nd.OptionError, match=text):
            nd.load(path, activations=activations)
    with pytest.raises(nd.ModelFormatError, match=r"state_dict_float32\.s\S+ .*layer 0 has an activation that cannot"):
        nd.load(path, activations=["no", None, None])


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({}, "holds no tensors"),
        ({"0.weight": np.ones((2, 3)), "0.running_mean": np.ones(2)}, r"has 0\.running_mean, which is of a batch norm"),
        ({"0.weight_g": np.ones((2, 3))}, r"has 0\.weight_g, which is of a parametrised weight"),
        ({"0.weight": np.ones(3)}, r"has 0\.weight of shape \(3,\), but the weights of a dense layer"),
        ({"0.weight": np.ones((2, 3, 1, 1))}, r"has 0\.weight of shape \(2, 3, 1, 1\)"),
        ({"0.weight": np.ones((2, 3)), "2.weight": np.ones((2, 3))}, r"does not fit: layer 2 takes 3 features but get"),
        ({"a.weight": np.ones((3, 3)), "z.weight": np.ones((3, 3))}, r"names do not say their order, and their shapes"),
        ({"0.weight": np.ones((2, 3), np.int32)}, r"has tensor 0\.weight of dtype I32 but networks are kept as F16"),
    ],
)
def test_files_that_are_no_dense_network_are_refused(tensors, text, tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(safetensors.numpy.save(tensors))
    with pytest.raises(nd.ModelFormatError, match=text) as caught:
        nd.load(path, activations=[None] * max(1, len(tensors)))
    assert str(path) in str(caught.value)


def test_a_mutated_file_of_weights_is_refused_or_is_a_network(tmp_path):
    content = (GOLDEN / "state_dict_bfloat16.safetensors").read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    path = tmp_path / "net.safetensors"
    longest = 0.0
    for seed in range(mutations.COUNT):
        rng = random.Random(seed)
        changed = mutations.mutated(content, rng)
        if seed % 2:
            text = json.dumps(mutations.mutated_json(header, rng)).encode()
            changed = len(text).to_bytes(8, "little") + text + content[begin:]
        path.write_bytes(changed)
        started = time.perf_counter()
        try:
            net = nd.load(path, activations=ACTIVATIONS)
        except nd.NonFiniteWarning:
            continue
        except (nd.ModelFormatError, nd.OptionError) as error:  # the latter where it holds another number of layers
            assert str(path) in str(error), seed
        else:
            assert len(net.layers) == 3
        longest = max(longest, time.perf_counter() - started)
    if os.environ.get("NUMBADENSE_MUTATIONS"):
        print(f"longest {longest:.3f} s")


def plain(kind, **attributes):
    """A module without weights that looks like PyTorch's."""
    module = torch_class("torch.nn.modules.activation", kind)()
    vars(module).update(attributes, _forward_hooks={}, _forward_pre_hooks={}, _modules={})
    return module


def after_linear(module):
    """A Sequential that looks like PyTorch's, of a linear layer 3 -> 2 and a module."""
    both = plain("Sequential")
    both._modules = {"0": plain("Linear", weight=np.ones((2, 3)), bias=np.ones(2)), "1": module}
    return both


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (
            plain("Conv2d"),
            r"layer 1 \(Conv2d\) is not supported: supported are Sequential, AlphaDropout, BatchNorm1d, ",
        ),
        (plain("PReLU", weight=np.array([0.1, 0.2])), r"layer 1 \(PReLU\) has 2 different slopes"),
        (plain("Softmax", dim=0), r"layer 1 \(Softmax\) goes over dimension 0"),
        (plain("Softplus", beta=1, threshold=2), r"layer 1 \(Softplus\) has threshold=2\.0, .* a step of 0\.1 there"),
        (plain("Softplus", beta=0, threshold=20), r"layer 1 \(Softplus\) has beta=0\.0"),
        (plain("Softshrink", lambd=-1), r"layer 1 \(Softshrink\) has an activation that cannot be had"),
        (plain("Flatten", start_dim=0, end_dim=-1), r"layer 1 \(Flatten\) flattens dimensions 0 to -1"),
        (plain("BatchNorm1d", running_mean=None, running_var=None), r"layer 1 \(BatchNorm1d\) keeps no running stat"),
        (
            plain("Linear", weight=np.ones((2, 2), np.int8), bias=None),
            r"weight of layer 1 \(Linear\) is a ndarray of d",
        ),
        (plain("Linear", weight=np.ones((2, 2)), bias=object()), r"bias of layer 1 \(Linear\) .*dtype object"),
        (plain("Linear", weight=np.ones((2, 4)), bias=None), r"layer 1 \(Linear\) takes 4 features but gets 2"),
        (plain("ReLU", forward=abs), r"layer 1 \(ReLU\) is a ReLU with a forward of its own"),
        (after_linear(plain("LSTM")), r"layer 1\.1 \(LSTM\) is not supported"),
        (plain("ReLU", _infer_parameters=0), r"layer 1 \(ReLU\) is lazy"),
    ],
)
def test_what_cannot_be_read_is_refused_by_index_and_kind(module, text):
    with pytest.raises(nd.ModelFormatError, match=text):
        nd.load(after_linear(module))


def test_softmax_of_no_dimension_goes_over_the_features_of_rows():
    net = nd.load(after_linear(plain("Softmax", dim=None)), dtype="float32")
    assert net([1.0, 2.0, 3.0]).tolist() == [0.5, 0.5]


def test_an_activation_before_the_first_layer_has_its_features():
    both = after_linear(None)
    both._modules = {"a": plain("ReLU"), "b": both._modules["0"]}
    assert nd.load(both)([-1.0, 1.0, 1.0]).tolist() == [3.0, 3.0]


def test_a_quantised_layer_is_not_taken_for_the_plain_one():
    quantised = type(
        "Linear", (torch_class("torch.nn.modules.module", "Module"),), {"__module__": "torch.ao.nn.quantized"}
    )
    with pytest.raises(nd.ModelFormatError, match=r"layer 1 \(torch\.ao\.nn\.quantized\.Linear\) is not supported"):
        nd.load(after_linear(quantised()))


def test_a_module_that_contains_itself_is_refused():
    module = after_linear(None)
    module._modules["1"] = module
    with pytest.raises(nd.ModelFormatError, match=r"layer 1\.1\.\S+ is more than 64 deep"):
        nd.load(module)


@pytest.fixture(scope="module")
def make():
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("make_torch_golden", GOLDEN / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "kinds"), CASES, ids=[name for name, _ in CASES])
def test_modules_of_torch_itself(make, name, kinds):
    module = make.built(getattr(make, name))
    x = golden()[0]["x"]
    single, double = make.outputs(module, x)
    assert_agrees(nd.load(module), x, single)
    assert_agrees(nd.load(module, dtype="float64"), x, double)
    assert nd.load(module).metadata["source"].startswith("torch ")
    assert module.training  # as it was


def test_tensors_of_torch_of_any_float_are_taken(make):
    module = make.built(make.mlp_relu)
    for dtype in (make.torch.float16, make.torch.bfloat16, make.torch.float64):
        net = nd.load(copy.deepcopy(module).to(dtype))
        assert net.dtype == (np.float64 if dtype == make.torch.float64 else np.float32)
        assert np.array_equal(net.layers[0].w, module[1].weight.to(dtype).double().detach().numpy().T)


def test_weights_are_not_shared_with_torch(make):
    module = make.nn.Linear(2, 2)
    net = nd.load(module)
    before = net.layers[0].w.copy()
    with make.torch.no_grad():
        module.weight += 1
    assert np.array_equal(net.layers[0].w, before)


def test_state_dicts_are_read_as_they_are(make):
    module = make.built(make.mlp_relu)
    x = golden()[0]["x"]
    net = nd.load(module.state_dict(), activations=["relu", None])
    assert np.array_equal(net(x), nd.load(module)(x))


def test_the_lines_for_a_pickle_convert_it(make, tmp_path, monkeypatch):
    with pytest.raises(nd.ModelFormatError) as caught:
        nd.load(tmp_path / "net.pt")
    lines = re.search(r"with PyTorch: (.*?), and load that with activations=\[\.\.\.\], or", str(caught.value))[1]
    module = make.built(make.mlp_relu)
    monkeypatch.chdir(tmp_path)
    exec(lines, {"model": module})
    x = golden()[0]["x"]
    assert np.array_equal(nd.load("net.safetensors", activations=["relu", None])(x), nd.load(module)(x))


def test_subclasses_are_read_if_they_run_the_same_code(make):
    nn = make.nn

    class Renamed(nn.Linear):
        pass

    class Own(nn.Linear):
        def forward(self, x):
            return -super().forward(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 2))

        def forward(self, x):
            return self.net(x)

    assert nd.load(nn.Sequential(Renamed(2, 2))).n_out == 2
    for module, text in [
        (nn.Sequential(Own(2, 2)), r"layer 0 \(\S+\.Own\) is a Linear with a forward of its own"),
        (Net(), r"the module, a \S+\.Net, runs code of its own, which cannot be read; if .*, pass module\.net\.$"),
        (nn.Sequential(Net()), r"layer 0 \(\S+\.Net\) runs code of its own.* pass module\.0\.net\.$"),
        (nn.ModuleList([nn.Linear(2, 2)]), r"ModuleList, is not supported.* Put the modules in torch\.nn\.Sequential"),
        (nn.Sequential(nn.Bilinear(1, 1, 1)), r"layer 0 \(Bilinear\) is not supported"),
    ]:
        with pytest.raises(nd.ModelFormatError, match=text):
            nd.load(module)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_hooks_and_parametrizations_are_refused_until_they_are_removed(make):
    nn, torch = make.nn, make.torch
    prune = importlib.import_module("torch.nn.utils.prune")
    parametrized = torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    pruned = nn.Linear(2, 2)
    prune.l1_unstructured(pruned, "weight", 1)
    hooked = nn.Linear(2, 2)
    handle = hooked.register_forward_hook(lambda *_: None)
    for module, text in [
        (parametrized, r"layer 0 \(Linear\) has parametrizations of weight; make them plain"),
        (pruned, r"layer 0 \(Linear\) has a hook, L1Unstructured, that runs with it"),
        (hooked, r"layer 0 \(Linear\) has a hook, .*<lambda>"),
        (torch.nn.utils.spectral_norm(nn.Linear(2, 2)), "has a hook, SpectralNorm"),
        (nn.LazyLinear(2), r"layer 0 \(Linear\) is lazy"),
        (nn.Linear(2, 2, device="meta"), r"weight of layer 0 \(Linear\) is on the device 'meta'"),
        (nn.Linear(2, 2).to(torch.complex64), r"weight of layer 0 \(Linear\) has dtype torch\.complex64"),
    ]:
        with pytest.raises(nd.ModelFormatError, match=text):
            nd.load(nn.Sequential(module))
    torch.nn.utils.parametrize.remove_parametrizations(parametrized, "weight")
    prune.remove(pruned, "weight")
    handle.remove()
    assert nd.load(nn.Sequential(parametrized, pruned, hooked)).n_out == 2


def test_a_loaded_state_dict_can_be_saved_as_a_network(tmp_path):
    path = tmp_path / "net.safetensors"
    shutil.copy(GOLDEN / "state_dict_float32.safetensors", path)
    net = nd.load(path, activations=ACTIVATIONS)
    net.save(tmp_path / "own.safetensors")
    x = golden()[0]["x"]
    assert np.array_equal(nd.load(tmp_path / "own.safetensors")(x), net(x))
