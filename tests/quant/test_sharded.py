"""Quantized stacks laid out over four devices: the same bits as on one."""

import os
import pathlib
import subprocess
import sys

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from lqlm.quant import QuantConfig, dequantize, matmul, quantize

assert jax.device_count() == 4
jax.config.update("jax_numpy_dtype_promotion", "strict")
mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
axes = {"layers": P("d"), "out": P(None, None, "d"), "in": P(None, "d")}

def place(leaf, spec):
    spec = P(*(axis if size % 4 == 0 else None for axis, size in zip(spec, leaf.shape)))
    return jax.device_put(leaf, NamedSharding(mesh, spec))

def spread(q, spec):
    return jax.tree.map(lambda leaf: place(leaf, spec), q)

w = jax.random.normal(jax.random.key(0), (4, 256, 24))
for config, ways in ((QuantConfig(), axes), (QuantConfig("nf3", 96, False), ["layers"])):  # rows, flat
    q = quantize(w, config)
    want = dequantize(q)
    for name in ways:
        jax.tree.map(np.testing.assert_array_equal, quantize(place(w, axes[name]), config), q)
        shards = spread(q, axes[name])
        assert not shards.codes.sharding.is_fully_replicated
        np.testing.assert_array_equal(dequantize(shards), want)

# Weights of -1, 0 and 1 are codes of every codebook, and sums of whole numbers have the same bits in any order.
w = jax.random.randint(jax.random.key(1), (4, 256, 24), -1, 2).astype(jnp.float32)
x, y = (jax.random.randint(jax.random.key(i), (4, 5, n), -8, 9).astype(jnp.float32) for i, n in ((2, 256), (3, 24)))

@jax.jit
def both(x, q, y):
    value, pull = jax.vjp(lambda x: jax.vmap(matmul)(x, q), x)
    return value, pull(y)[0]

q = quantize(w)
for name, spec in axes.items():
    value, grad = both(x, spread(q, spec), y)
    np.testing.assert_array_equal(value, jnp.einsum("lbi,lio->lbo", x, w))
    np.testing.assert_array_equal(grad, jnp.einsum("lbo,lio->lbi", y, w))
"""


def test_shards_give_the_same_bits():
    cache = str(pathlib.Path(__file__).parents[2] / ".cache" / "jax")
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    flags |= {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **flags}, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-3000:]
