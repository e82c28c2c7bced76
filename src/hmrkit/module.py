"""The one train, validate, test and predict loop that every method shares."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from hmrkit.body.smpl import SMPL
from hmrkit.evaluation import Protocol, build_protocol
from hmrkit.metrics import MetricMeans
from hmrkit.row_columns import adaptation_curves, circumstances, who
from hmrkit.types import Batch, Prediction


class HMRModule(pl.LightningModule):
    """A network, its loss and a body model in one training loop.

    Args:
        net: ``net(batch, body_model) -> Prediction``.
        loss: ``loss(prediction, batch, body_model) -> {term: weighted scalar}``, to be summed. Its
            ``is_batch_sum`` says that terms are sums over the batch, and not means; its
            ``prepare(body_model)``, if it has one, is called before the first step.
        body: the body model; its buffers never enter a checkpoint.
        optimizer: ``optimizer(parameters) -> Optimizer``.
        scheduler: ``scheduler(optimizer) -> LRScheduler``, stepped every training step, or None.
        config: the run's resolved config as plain containers; the checkpoint carries it.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: nn.Module,
        body: SMPL,
        optimizer: Callable[..., torch.optim.Optimizer] | None,
        scheduler: Callable[..., Any] | None,
        config: dict[str, Any],
    ) -> None:
        super().__init__()
        self.net = net
        self.loss = loss
        self.body = body
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.config = config
        self.save_hyperparameters({"config": config}, logger=False)
        self.adapt: nn.Module | None = None  # test-time optimisation in tests and predictions
        self.means = nn.ModuleDict()  # one accumulator per validation source
        self.protocols: dict[str, Protocol] = {}  # of the evaluated sources
        self.rows: dict[str, list[dict[str, Any]]] = {}  # per-person results of the last test

    def forward(self, batch: Batch) -> Prediction:
        """The network's prediction; ``mesh`` only where the network needs it itself."""
        return self.net(batch, self.body)

    @torch.no_grad()
    def predict(self, batch: Batch) -> Prediction:
        """The prediction with meshes, (P, V, 3) metres, without gradients.

        With ``adapt``, and unless the module is being fit, the network is adapted first. Of scenes
        without meshes: most candidates are nobody. ``scene_evaluation.detected`` chooses.
        """
        is_fitting = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        prediction = self(batch) if self.adapt is None or is_fitting else self.adapted(batch)
        if prediction.mesh is None and prediction.image_of_person is None:
            prediction = replace(prediction, mesh=self.body(prediction.body))
        return prediction

    def adapted(self, batch: Batch) -> Prediction:
        """The prediction after test-time optimisation; what it was before is its first stage."""
        assert self.adapt is not None
        return self.adapt(self.net, batch, self.body)

    def configure_model(self) -> None:
        """With ``trainer=fsdp``: share the network's weights out over all processes.

        The blocks of every stack are gathered one at a time, where they are computed.
        """
        if self.device_mesh is None or isinstance(self.net, FSDPModule):
            return
        stacks = [module for module in self.net.modules() if isinstance(module, nn.ModuleList)]
        for block in [block for stack in reversed(stacks) for block in stack]:  # inner ones first
            if not isinstance(block, nn.ModuleList):
                fully_shard(block)
        fully_shard(self.net)

    def on_fit_start(self) -> None:
        """Let a loss with ``prepare(body_model)`` read its files, so that what is missing shows."""
        if hasattr(self.loss, "prepare"):
            self.loss.prepare(self.body)

    def on_after_backward(self) -> None:
        """Average what the loss trains, which ``trainer=fsdp`` leaves whole on every process."""
        if isinstance(self.net, FSDPModule):
            for parameter in self.loss.parameters():
                if parameter.grad is not None:
                    parameter.grad = self.all_gather(parameter.grad).mean(dim=0)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout by the step, so that a resumed run draws what an uninterrupted one draws."""
        step = self.trainer.fit_loop.epoch_loop.total_batch_idx
        key = [self.config.get("seed", 0), step, self.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Forward, weighted loss terms, one line in the log per term."""
        terms = self.loss(self(batch), batch, self.body)
        if getattr(self.loss, "is_batch_sum", False):  # gradients are averaged over processes
            terms = {name: self.trainer.world_size * term for name, term in terms.items()}
        total = torch.stack(list(terms.values())).sum()
        size = max(1, len(batch["has_pose"]))  # images may be empty
        logged = {"loss": total, **terms}
        for name, value in logged.items():  # means over the processes
            show = name == "loss"
            self.log(f"train/{name}", value.detach(), show, batch_size=size, sync_dist=True)
        if bad := getattr(self.trainer.datamodule, "num_bad", 0):
            self.log("data/bad", float(bad), prog_bar=True, batch_size=size)
        return total

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Accumulate the metrics of one validation batch."""
        datamodule = self.trainer.datamodule
        name = datamodule.val_names[dataloader_idx]
        values = self._protocol(name).measure(self.predict(batch), batch, self.body)
        values.pop("row_person", None)
        values = {name: value for name, value in values.items() if not name.startswith("_")}
        key = f"val/{name}".replace(".", "_")
        if key not in self.means:
            self.means[key] = MetricMeans().to(self.device)
        self.means[key].update(values)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Prediction:
        """Keep one row per person: what the protocol measures, and who and what was measured."""
        name = self.trainer.datamodule.test_names[dataloader_idx]
        started = self._now_s()
        prediction = self.predict(batch)
        passed_s = self._now_s() - started
        values = self._protocol(name).measure(prediction, batch, self.body)
        person = values.pop("row_person", torch.arange(len(batch["has_pose"]))).cpu().numpy()
        columns = {k: v.cpu().numpy() for k, v in values.items()}
        per_person = {**who(batch), **circumstances(batch), **adaptation_curves(prediction)}
        columns |= {k: v[person] for k, v in per_person.items()}
        num_inputs = len(batch["image"]) if "image" in batch else len(batch["has_pose"])
        columns["_network_ms"] = np.full(len(person), 1000 * passed_s / max(1, num_inputs))
        self.rows.setdefault(name, []).append(columns)
        return prediction

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """Lightning's name for ``predict``."""
        return self.predict(batch)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/<metric>``, averaged over the sources, and ``val/<source>/<metric>``."""
        overall: dict[str, list[Tensor]] = {}
        for name, accumulator in self.means.items():
            for metric, value in accumulator.compute().items():
                self.log(f"{name}/{metric}", value, sync_dist=True)  # equal on all already
                overall.setdefault(metric, []).append(value)
            accumulator.reset()
        for metric, values in overall.items():
            mean = torch.stack(values).nanmean()
            self.log(f"val/{metric}", mean, prog_bar=metric == "pa_mpjpe", sync_dist=True)

    def on_test_start(self) -> None:
        """Forget the rows of an earlier test."""
        self.rows = {}

    def configure_optimizers(self) -> Any:
        """One optimizer over everything trainable, by name; its scheduler is stepped every step."""
        assert self.optimizer is not None, "this module was built for evaluation"
        optimizer = self.optimizer([(n, p) for n, p in self.named_parameters() if p.requires_grad])
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer)
        interval = getattr(scheduler, "interval", "step")  # "epoch": stepped after every epoch
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": interval},
        }

    def _protocol(self, source: str) -> Protocol:
        """How a test or validation source is scored."""
        if source not in self.protocols:
            self.protocols[source] = build_protocol(self.trainer.datamodule.protocol(source))
        return self.protocols[source]

    def _now_s(self) -> float:
        """The time, after everything that the device was given is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
