"""What a run of the engine took, for a person."""

from lqlm.generation.engine import EngineStats

_TIMES = {"first_token_seconds": "time to first token", "token_seconds": "time per output token"}


def table(stats: EngineStats) -> str:
    """Speeds and bytes, a line each; times are the least, the median and the largest of all prompts."""
    found = stats.summary()
    lines = [
        f"prompts {stats.prompts}, of {stats.prompt_tokens} tokens; tokens sampled {stats.tokens}, "
        f"{found['tokens_per_second']:.1f}/s",
        f"prefill {stats.prefill_seconds:.2f} s, decoding {stats.decode_seconds:.2f} s in {stats.steps} steps; "
        f"{stats.occupancy:.0%} of the places in use, {stats.refills} refilled",
        f"key/value cache {stats.cache_bytes / 2**20:.1f} MiB",
    ]
    for name, label in _TIMES.items():
        least, median, most = (1e3 * found[f"{name}/{key}"] for key in ("min", "median", "max"))
        lines.append(f"{label}: {least:.0f} / {median:.0f} / {most:.0f} ms")
    return "\n".join(lines)
