"""Rows whose likelihood is raised beside a rollout: those of ``experiments.sft``, read at once."""

from experiments.ppo.settings import ActorCriticExperiment
from experiments.sft.data import Feed, prepare, read_records
from experiments.sft.settings import RunSettings, SFTExperiment
from lqlm.errors import UserError
from lqlm.io.load import LoadedModel


def read_rows(settings: ActorCriticExperiment, model: LoadedModel) -> Feed | None:
    """Batches of ``pretraining.rows`` rows, the batch of an update a function of its number; None for no rows.

    Raises:
        UserError: naming the record or the setting that cannot be used.
    """
    asked = settings.pretraining
    if not asked.rows:
        return None
    if asked.text.max_length > model.config.max_positions:
        raise UserError(
            f"pretraining.text.max_length {asked.text.max_length} exceeds the model's {model.config.max_positions} "
            "positions; lower it"
        )
    whole = SFTExperiment(
        seed=settings.seed,
        model=settings.model,
        adapter=settings.adapter,
        data=asked.data,
        text=asked.text,
        run=RunSettings(rows=asked.rows),
    )
    try:
        found = read_records(asked.data, settings.seed)
        return prepare(whole, found, model.tokenizer, model.tokenizer.pad_id).feed
    except UserError as error:
        raise UserError(f"pretraining: {error}") from error
