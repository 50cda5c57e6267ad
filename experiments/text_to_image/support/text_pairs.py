"""Pictures with texts as models of pairs are trained on them: flags, batches, evaluation."""

from dataclasses import dataclass

from experiments.shared.training_runs import OptimizationFlags
from jaxgen.errors import InputError
from jaxgen.parallel import Layout, gather_fsdp
from jaxgen.training.step import LossFn
from jaxgen.typing import Batch


@dataclass(frozen=True, kw_only=True)
class PairTrainingFlags(OptimizationFlags):
    """How networks are trained on pairs: AdamW, linear warm-up, cosine to zero, average.

    Attributes:
      training_steps: updates.
      batch_size: pairs of an update; each is compared with all others.
      learning_rate: the highest one.
      weight_decay: on weights, decoupled.
      ema_decay: of the moving average of the parameters, which is what is evaluated.
      accumulate: must be 1: the loss compares the pairs of the whole batch.
      moment_dtype: of the optimizer's mean of gradients; "bfloat16" halves it.
    """

    batch_size: int = 128
    weight_decay: float = 0.1
    ema_decay: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accumulate != 1:
            raise InputError(
                f"accumulate is {self.accumulate}, expected 1: the loss compares the pairs of the "
                "whole batch"
            )


def loss_on(layout: Layout, loss_fn: LossFn) -> LossFn:
    """A loss of parameters that are sharded by a layout, which are gathered before use."""
    return lambda params, batch, key: loss_fn(gather_fsdp(params, layout), batch, key)


def to_batch(batch: Batch) -> Batch:
    """A batch of `captioned_batch_at` as the losses of `jaxgen.encoders` name its parts."""
    names = {"image": "image", "video": "image", "text_ids": "ids", "text_mask": "mask"}
    names["caption"] = "meaning"
    return {to: batch[name] for name, to in names.items() if name in batch}
