"""NF4 against the installed bitsandbytes: the goldens are recomputed, and larger random weights compared."""

import importlib.util
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.quant import QuantConfig, dequantize, from_bnb, quantize, to_bnb, undo_double

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("bitsandbytes")
    import bitsandbytes.functional as bnb

DTYPES = {"float32": (torch.float32, jnp.float32), "bfloat16": (torch.bfloat16, jnp.bfloat16)}
DTYPES["float16"] = (torch.float16, jnp.float16)
pytestmark = pytest.mark.filterwarnings("ignore")  # the peers' own


def bits(x):
    x = np.asarray(x)
    return x.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[x.itemsize])


def torch_bits(x):
    x = x.contiguous()
    return x.numpy().view(np.uint32) if x.dtype == torch.float32 else x.view(torch.int16).numpy().view(np.uint16)


def test_goldens_are_what_the_peer_makes(goldens, tmp_path):
    spec = importlib.util.spec_from_file_location("make_bnb", goldens / "make_bnb.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    make.main(tmp_path)
    with np.load(tmp_path / "bnb.npz") as new, np.load(goldens / "bnb.npz") as old:
        assert set(new.files) == set(old.files)
        for key in set(old.files) - {"versions"}:
            np.testing.assert_array_equal(new[key], old[key], err_msg=key)


@pytest.mark.parametrize("shape", [(256, 512), (96, 100), (33, 7)])
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("block", [64, 128])
def test_weights_equal_bit_for_bit(name, shape, block):
    theirs, ours = DTYPES[name]
    w = torch.randn(shape, generator=torch.Generator().manual_seed(1)).mul(0.02).to(theirs)
    packed, state = bnb.quantize_4bit(w, quant_type="nf4", blocksize=block)
    state.shape = torch.Size([w.numel()])  # see make_bnb.py
    y = bnb.dequantize_4bit(packed, state).reshape(shape)
    q = quantize(jnp.asarray(w.float().numpy().T).astype(ours), QuantConfig(block=block, double=False))
    tensors = to_bnb(q)
    np.testing.assert_array_equal(tensors["weight"], packed.numpy())
    np.testing.assert_array_equal(bits(tensors["weight.absmax"]), torch_bits(state.absmax))
    np.testing.assert_array_equal(bits(dequantize(q)), torch_bits(y).T)


def test_double_quantization_reads_alike_and_takes_nearer_codes():
    """The peer's CPU table is at most one code off the nearest; given its codes, both dequantize to the same bits."""
    w = torch.randn((1024, 1024), generator=torch.Generator().manual_seed(2))
    packed, state = bnb.quantize_4bit(w, quant_type="nf4", blocksize=64, compress_statistics=True)
    tensors = {f"weight.{k}": v.numpy() for k, v in state.as_dict(packed=True).items()} | {"weight": packed.numpy()}
    read = from_bnb(tensors)
    np.testing.assert_array_equal(bits(dequantize(read)), torch_bits(bnb.dequantize_4bit(packed, state)).T)
    own = quantize(jnp.asarray(w.numpy().T))
    np.testing.assert_allclose(own.maxima.offset, read.maxima.offset, rtol=1e-6)
    apart = np.abs(np.asarray(own.maxima.codes).astype(int) - np.asarray(read.maxima.codes).astype(int))
    assert apart.max() <= 1 and apart.mean() < 0.01
    plain = bnb.quantize_4bit(w, quant_type="nf4", blocksize=64)[1].absmax.numpy()
    error = [np.abs(np.asarray(undo_double(q.maxima)) - plain).sum() for q in (own, read)]
    assert error[0] <= error[1]
