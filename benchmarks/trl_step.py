"""A step of TRL's GRPOTrainer with PEFT and bitsandbytes, timed by phase, for :mod:`benchmarks.step`."""

import contextlib
import dataclasses
import pathlib
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

from lqlm.adapters.configs import LINEARS
from lqlm.io.export import save_hf
from lqlm.io.load import LoadedModel

Seconds = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Shape:
    """What is sampled and trained on in one step.

    Attributes:
        prompts: B.
        group: G.
        prompt: P, tokens of each prompt.
        new: C, tokens of each completion; none ends before.
    """

    prompts: int = 1
    group: int = 8
    prompt: int = 64
    new: int = 64


@dataclasses.dataclass(frozen=True)
class Variant:
    """How TRL computes: its defaults are bfloat16 and checkpointing."""

    dtype: str
    checkpointing: bool

    @property
    def name(self) -> str:
        """As the table says it."""
        return f"TRL {self.dtype}{', checkpointing' if self.checkpointing else ''}"


def run(model: LoadedModel, shape: Shape, variant: Variant, steps: int, between: Callable[[], None]) -> list[Seconds]:
    """Seconds of each step by phase; ``between`` is called after each, for whoever takes turns."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_hf(pathlib.Path(folder) / "model", model.base, model.config, model.tokenizer, variant.dtype)
        trainer, laps = _trainer(pathlib.Path(folder), shape, variant, steps, between)
        with contextlib.redirect_stdout(None):
            trainer.train()
    return laps


def _trainer(
    folder: pathlib.Path, shape: Shape, variant: Variant, steps: int, between: Callable[[], None]
) -> tuple[Any, list[Seconds]]:
    import datasets
    import peft
    import transformers
    import trl

    rows = shape.prompts * shape.group
    arguments = trl.GRPOConfig(
        output_dir=str(folder / "out"),
        use_cpu=True,
        bf16=variant.dtype == "bfloat16",
        gradient_checkpointing=variant.checkpointing,
        per_device_train_batch_size=rows,
        num_generations=shape.group,
        max_completion_length=shape.new,
        generation_kwargs={"min_new_tokens": shape.new},
        max_steps=steps,
        learning_rate=1e-5,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    laps: list[Seconds] = []
    trainer = trl.GRPOTrainer(
        model=_quantized(folder / "model", variant),
        processing_class=transformers.AutoTokenizer.from_pretrained(folder / "model"),
        reward_funcs=lambda completions, **_: [float(i % 3) for i in range(len(completions))],
        args=arguments,
        train_dataset=datasets.Dataset.from_dict({"prompt": [" the" * shape.prompt] * 64}),
        peft_config=peft.LoraConfig(
            r=16, lora_alpha=32, target_modules=list(LINEARS), task_type="CAUSAL_LM", lora_dropout=0.0
        ),
        callbacks=[_clock(transformers.TrainerCallback, laps, between)],
    )
    for phase, method in {"generate": "_generate_single_turn", "rollout": "_generate_and_score_completions"}.items():
        _time_method(trainer, method, phase, laps)
    return trainer, laps


def _quantized(folder: pathlib.Path, variant: Variant) -> Any:
    import torch
    import transformers

    dtype = getattr(torch, variant.dtype)
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return transformers.AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=dtype)


def _clock(base: type, laps: list[Seconds], between: Callable[[], None]) -> Any:
    """A callback that opens a lap at the beginning of a step and closes it at its end."""

    class Clock(base):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            laps.append({"begin": time.perf_counter()})

        def on_step_end(self, *_: Any, **__: Any) -> None:
            lap = laps[-1]
            lap["step"] = time.perf_counter() - lap.pop("begin")
            lap["update"] = lap["step"] - lap.pop("rollout")
            between()

    return Clock()


def _time_method(trainer: Any, method: str, phase: str, laps: list[Seconds]) -> None:
    inner = getattr(trainer, method)

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = inner(*args, **kwargs)
        laps[-1][phase] = laps[-1].get(phase, 0.0) + time.perf_counter() - start
        return result

    setattr(trainer, method, timed)
