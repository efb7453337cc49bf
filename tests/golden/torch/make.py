"""Write the golden files beside this script, with PyTorch: modules as they look from outside, state dicts, outputs.

Run it as ``python tests/golden/torch/make.py``.
"""

import copy
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).parent


def mlp_relu():
    return nn.Sequential(nn.Flatten(), nn.Linear(5, 7), nn.ReLU(), nn.Dropout(0.3), nn.Linear(7, 3))


def batch_norm():
    return nn.Sequential(
        nn.BatchNorm1d(5),
        nn.Linear(5, 6),
        nn.BatchNorm1d(6, eps=1e-3),
        nn.ReLU(),
        nn.BatchNorm1d(6, affine=False),
        nn.Linear(6, 4),
        nn.Softmax(dim=1),
    )


def rectifiers():
    return nn.Sequential(
        *(nn.Linear(5, 6), nn.ReLU6(), nn.Linear(6, 5), nn.LeakyReLU(0.2), nn.Linear(5, 6), nn.PReLU()),
        *(nn.Linear(6, 5), nn.RReLU(), nn.Linear(5, 4), nn.LeakyReLU(), nn.Linear(4, 4), nn.Threshold(-1.0, -2.0)),
    )


def exponentials():
    return nn.Sequential(
        *(nn.Linear(5, 6), nn.ELU(0.7), nn.Linear(6, 5), nn.CELU(1.3), nn.Linear(5, 6), nn.SELU()),
        *(nn.Linear(6, 5), nn.SiLU(), nn.Linear(5, 6), nn.Mish(), nn.Linear(6, 5), nn.GELU()),
        *(nn.Linear(5, 4), nn.GELU(approximate="tanh")),
    )


def sigmoids():
    return nn.Sequential(
        *(nn.Linear(5, 6), nn.Sigmoid(), nn.Linear(6, 5), nn.LogSigmoid(), nn.Linear(5, 6), nn.Tanh()),
        *(nn.Linear(6, 5), nn.Hardtanh(-0.5, 0.8), nn.Linear(5, 6), nn.Hardsigmoid(), nn.Linear(6, 5), nn.Hardswish()),
        *(nn.Linear(5, 6), nn.Softsign(), nn.Linear(6, 4), nn.Softplus(2.5)),
    )


def shrinks():
    return nn.Sequential(nn.Linear(5, 6), nn.Softshrink(0.3), nn.Linear(6, 4), nn.Hardshrink(1.0))


def nested():
    return nn.Sequential(
        nn.Sequential(nn.Linear(5, 6, bias=False), nn.Identity()),
        nn.AlphaDropout(0.2),
        nn.Sequential(nn.ELU(), nn.FeatureAlphaDropout(), nn.Linear(6, 4)),
        nn.LogSoftmax(dim=-1),
    )


def softmin():
    return nn.Sequential(nn.Linear(5, 4), nn.Dropout1d(), nn.Softmin(dim=-1))


BUILDERS = (mlp_relu, batch_norm, rectifiers, exponentials, sigmoids, shrinks, nested, softmin)


def built(builder):
    """The module with its weights drawn and, where it normalises, statistics of its own."""
    torch.manual_seed(BUILDERS.index(builder))
    module = builder()
    for part in module.modules():
        if isinstance(part, nn.Linear):  # wide enough that each activation bends, clips and drops something
            for parameter in part.parameters():
                nn.init.normal_(parameter)
        if isinstance(part, nn.BatchNorm1d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2.0)
            if part.affine:
                nn.init.normal_(part.weight)
                nn.init.normal_(part.bias)
    return module


def snapshot(module, arrays, path):
    """What a reader can see of a module; its tensors go to `arrays`."""
    tensors = {}
    for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
        tensors[name] = None if tensor is None else f"{path}:{name}"
        if tensor is not None:
            arrays[f"{path}:{name}"] = tensor.detach().numpy()
    plain = {k: v for k, v in vars(module).items() if isinstance(v, (int, float, str, type(None)))}
    return {
        "class": type(module).__name__,
        "module": type(module).__module__,
        "attributes": {k: v for k, v in plain.items() if not k.startswith("_")},
        "tensors": tensors,
        "children": [[name, snapshot(part, arrays, f"{path}.{name}")] for name, part in module._modules.items()],
    }


def outputs(module, x):
    """The outputs in float32 and float64."""
    with torch.no_grad():
        single = copy.deepcopy(module).eval().float()(torch.from_numpy(x))
        double = copy.deepcopy(module).eval().double()(torch.from_numpy(x).double())
    return single.numpy(), double.numpy()


def main():
    x = np.random.default_rng(0).uniform(-2, 2, (6, 5)).astype(np.float32)
    arrays, modules = {"x": x}, {}
    for builder in BUILDERS:
        name = builder.__name__
        modules[name] = snapshot(built(builder), arrays, name)
        arrays[f"{name}:32"], arrays[f"{name}:64"] = outputs(built(builder), x)
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        module = nn.Sequential(nn.Linear(5, 16), nn.GELU(), nn.Linear(16, 5), nn.ELU(), nn.Linear(5, 3))
        torch.manual_seed(0)
        for parameter in module.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5)
        module = module.to(dtype)
        save_file(module.state_dict(), HERE / f"state_dict_{name}.safetensors", {"format": "pt"})
        arrays[f"{name}:32"], arrays[f"{name}:64"] = outputs(module, x)
    versions = {"torch": torch.__version__}
    (HERE / "modules.json").write_text(json.dumps({"versions": versions, "modules": modules}, indent=1) + "\n")
    np.savez_compressed(HERE / "arrays.npz", **arrays)


if __name__ == "__main__":
    main()
