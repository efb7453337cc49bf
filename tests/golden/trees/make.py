"""Write the golden file beside this script, with Flax, Haiku and Equinox: trees of weights, and outputs.

Run it as ``python tests/golden/trees/make.py``.  Everything is in one ``trees.npz``: the leaves of each case by their
path, as JSON a description of the tree, and outputs in float32 and float64.
"""

import json
from importlib.metadata import version
from pathlib import Path

import equinox as eqx
import flax.linen as linen
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

jax.config.update("jax_enable_x64", True)
HERE = Path(__file__).parent


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        for width in (8, 5, 8, 5, 8, 5, 8, 5, 8, 5, 8):  # so many that Dense_10 is sorted before Dense_2
            x = jnp.tanh(linen.Dense(width, param_dtype=jnp.float32, dtype=x.dtype)(x))
        return linen.Dense(3, use_bias=False, param_dtype=jnp.float32, dtype=x.dtype)(x)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(4, 6, rngs=rngs, param_dtype=jnp.float32)
        self.out = nnx.Linear(6, 2, rngs=rngs, param_dtype=jnp.float32)

    def __call__(self, x):
        return self.out(nnx.silu(self.hidden(x)))


def haiku(x):
    x = jax.nn.relu(hk.Linear(6)(x))
    x = jax.nn.sigmoid(hk.Linear(6)(x))
    return hk.Linear(2, with_bias=False)(x)


def as_dtype(tree, dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_array(leaf) else leaf, tree)


def function(f):
    return [f.__module__, f.__name__]


def described(tree, path, arrays):
    """A tree as JSON: a leaf is its name in `arrays`, functions and modules are what their names say."""
    if isinstance(tree, dict) or type(tree).__name__ in ("State", "FrozenDict"):
        return {str(name): described(part, f"{path}/{name}", arrays) for name, part in tree.items()}
    if isinstance(tree, tuple | list):
        return [described(part, f"{path}/{index}", arrays) for index, part in enumerate(tree)]
    if isinstance(tree, eqx.Module):
        attributes = {name: described(part, f"{path}/{name}", arrays) for name, part in vars(tree).items()}
        return {"class": [type(tree).__module__, type(tree).__name__], "attributes": attributes}
    if callable(tree) and hasattr(tree, "__name__"):
        return {"function": function(tree)}
    if tree is None or isinstance(tree, bool | int | float | str):
        return {"plain": tree}
    arrays[path] = np.asarray(tree)
    return path


def main():
    x = np.random.default_rng(0).uniform(-2, 2, (6, 4)).astype(np.float32)
    arrays, trees = {"x": x}, {}

    def add(name, tree, call):
        trees[name] = described(tree, name, arrays)
        for bits, dtype in ((32, jnp.float32), (64, jnp.float64)):
            arrays[f"{name}:{bits}"] = np.asarray(call(as_dtype(tree, dtype), jnp.asarray(x, dtype)))

    net = Linen()
    params = net.init(jax.random.key(0), jnp.asarray(x))
    add("flax_linen", jax.tree.map(lambda leaf: leaf + 0.01, params), net.apply)  # which sorts the names
    graph, state = nnx.split(Nnx(nnx.Rngs(0)))
    add("flax_nnx", state, lambda state, x: nnx.merge(graph, state)(x))
    forward = hk.without_apply_rng(hk.transform(haiku))
    add("haiku", forward.init(jax.random.PRNGKey(0), jnp.asarray(x)), forward.apply)
    keys = jax.random.split(jax.random.key(1), 8)
    mlp = eqx.nn.MLP(4, 3, 6, 2, activation=jax.nn.gelu, final_activation=jax.nn.log_sigmoid, key=keys[0])
    add("equinox_mlp", as_dtype(mlp, jnp.float32), lambda net, x: jax.vmap(net)(x))
    single = eqx.nn.MLP(4, "scalar", 6, 1, use_final_bias=False, key=keys[1])
    add("equinox_default", as_dtype(single, jnp.float32), lambda net, x: jax.vmap(net)(x)[:, None])
    layers = [
        eqx.nn.Linear(4, 6, key=keys[2]),
        eqx.nn.Lambda(jax.nn.hard_silu),
        eqx.nn.Dropout(0.1, inference=True),
        eqx.nn.Sequential([eqx.nn.Linear(6, 5, use_bias=False, key=keys[3]), eqx.nn.Lambda(jax.nn.soft_sign)]),
        eqx.nn.Identity(),
        eqx.nn.Linear(5, 3, key=keys[4]),
        eqx.nn.Lambda(jax.nn.softmax),
    ]
    sequential = as_dtype(eqx.nn.Sequential(layers), jnp.float32)
    add("equinox_sequential", sequential, lambda net, x: jax.vmap(net)(x))
    versions = {name: version(name) for name in ("jax", "flax", "dm-haiku", "equinox")}
    arrays["trees"] = json.dumps({"versions": versions, "trees": trees})
    np.savez_compressed(HERE / "trees.npz", **{name.replace("/", "|"): array for name, array in arrays.items()})


if __name__ == "__main__":
    main()
