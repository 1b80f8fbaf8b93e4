"""The recorder inside Lightning and the `Trainer` of Hugging Face, which own the loop.

Both are made by a function, so that importing this module needs neither package (extra `desk`).
"""

from collections.abc import Callable

from torch import Tensor

from unlearnlib._extras import optional
from unlearnlib.desk.recording import Recorder


def lightning_recorder(recorder: Recorder, positions_of: Callable[[object], Tensor], examples=None):
    """A callback for `lightning.Trainer(callbacks=[...])`.

    positions_of   a batch of the data loader -> positions [B] of its examples in `recorder.ids`
    examples       as `Recorder.end` takes them

    A step is an optimiser step: batches whose gradients are accumulated belong to one. One device, one process.
    """
    pytorch = optional("lightning.pytorch")

    class Recording(pytorch.Callback):
        def on_train_start(self, trainer, module) -> None:
            if trainer.world_size != 1:
                raise ValueError("the recorder sees the batches of one process: train with devices=1")
            self._done = trainer.global_step
            recorder.begin(module)

        def on_train_batch_start(self, trainer, module, batch, number) -> None:
            recorder.seen(positions_of(batch))

        def on_train_batch_end(self, trainer, module, outputs, batch, number) -> None:
            if trainer.global_step > self._done:
                self._done = trainer.global_step
                recorder.step(module)

        def on_train_end(self, trainer, module) -> None:
            recorder.end(module, examples)

    return Recording()


def trainer_recorder(recorder: Recorder, column: str = "position"):
    """A callback for `transformers.Trainer(callbacks=[...])`, with `TrainingArguments(remove_unused_columns=False)`.

    column   of the data set: the position of an example in `recorder.ids`. The model does not get to see it

    The trainer reads batches ahead, and tells its callbacks nothing of them; so they are noted where they enter the
    model, in train mode. One device, one process.
    """
    transformers = optional("transformers")

    class Recording(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **others) -> None:
            if args.world_size != 1 or args.n_gpu > 1:
                raise ValueError("the recorder sees the batches of one process: train on one device")

            def noted(module, positional, named):
                index = named.pop(column, None)
                if module.training:
                    if index is None:
                        wanted = "keep it with TrainingArguments(remove_unused_columns=False)"
                        raise ValueError(f"the batches have no column {column!r}: {wanted}")
                    recorder.seen(index)
                return positional, named

            self._hook = model.register_forward_pre_hook(noted, with_kwargs=True)
            recorder.begin(model)

        def on_step_end(self, args, state, control, model=None, **others) -> None:
            recorder.step(model)

        def on_train_end(self, args, state, control, model=None, **others) -> None:
            self._hook.remove()
            recorder.end(model)

    return Recording()
