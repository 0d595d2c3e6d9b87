"""OPT (Zhang et al. 2022, arXiv:2205.01068): how its ``config.json`` and its tensors are called.

It differs from the other families in what it computes: positions are rows of a learned table, from its row 2 on, and
are added to the embeddings; norms are LayerNorms with a bias; the feed-forward layer is ``fc2(relu(fc1(x)))``; every
linear map has a bias.  Here ``fc1`` is called ``up_proj``, ``fc2`` ``down_proj`` and ``out_proj`` ``o_proj``, as what
they do is called in the other families, so that adapters, quantization and placement on devices are the same.
"""

from collections.abc import Mapping
from typing import Any

from lqlm.errors import UserError

FIRST_POSITION = 2
"""Row of the table of positions that the first token has; padding has the row before."""
EPSILON = 1e-5
_OWN = {"ffn_dim": "intermediate_size"}
_SAME = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
# What another value of these would change in the computation is not computed here.
_ONLY = {
    "do_layer_norm_before": True,
    "enable_bias": True,
    "layer_norm_elementwise_affine": True,
    "activation_function": "relu",
    "_remove_final_layer_norm": False,
}
TENSORS = {
    "input_norm": "self_attn_layer_norm.weight",
    "input_norm_bias": "self_attn_layer_norm.bias",
    "post_norm": "final_layer_norm.weight",
    "post_norm_bias": "final_layer_norm.bias",
    "q_proj": "self_attn.q_proj.weight",
    "k_proj": "self_attn.k_proj.weight",
    "v_proj": "self_attn.v_proj.weight",
    "o_proj": "self_attn.out_proj.weight",
    "up_proj": "fc1.weight",
    "down_proj": "fc2.weight",
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
    "o_bias": "self_attn.out_proj.bias",
    "up_bias": "fc1.bias",
    "down_bias": "fc2.bias",
}
"""Key in ``base["layers"]`` -> name inside ``model.decoder.layers.N``."""
POSITIONS = "model.decoder.embed_positions.weight"


def from_opt(config: Mapping[str, Any]) -> dict[str, Any]:
    """OPT's config under the keys of the other families.

    Raises:
      UserError: for a variant that is not computed here.

    >>> from_opt({"model_type": "opt", "ffn_dim": 8})["intermediate_size"]
    8
    """
    for key, only in _ONLY.items():
        if config.get(key, only) != only:
            raise UserError(f"config: {key} {config[key]!r} is not supported; an OPT model has {only!r} here")
    if config.get("word_embed_proj_dim", config.get("hidden_size")) != config.get("hidden_size"):
        raise UserError("config: word_embed_proj_dim differs from hidden_size; take an OPT model without projections")
    found = {key: config[key] for key in (*_SAME, "quantization_config") if key in config}
    return found | {
        "model_type": "opt",
        **{name: config[own] for own, name in _OWN.items() if own in config},
        "num_key_value_heads": config.get("num_attention_heads"),
        "rms_norm_eps": EPSILON,
        "tie_word_embeddings": config.get("tie_word_embeddings", True),
        "attention_bias": True,
    }


def as_opt(config: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`from_opt`."""
    kept = {key: config[key] for key in ("architectures", "model_type", "tie_word_embeddings", *_SAME)}
    return {
        **kept,
        **{own: config[name] for own, name in _OWN.items()},
        "word_embed_proj_dim": config["hidden_size"],
        "do_layer_norm_before": True,
        "activation_function": "relu",
    }


def layer_shapes(width: int, ffn: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors of a layer, as :func:`lqlm.models.convert.layer_tensors` has them."""
    matrices = {"up_proj": (ffn, width), "down_proj": (width, ffn)}
    matrices |= {f"{name}_proj": (width, width) for name in "qkvo"}
    return {key: (name, matrices.get(key, (ffn if key == "up_bias" else width,))) for key, name in TENSORS.items()}
