"""What a network said about a test set, in one npz: written here, read by ``recorded.py``.

``config``: JSON with the nodes ``body`` and ``data`` that the network was made with. Of each test
set ``<source>/<name>``, P predicted people and O views of them:

- ``unit`` (P,), position of the record in the test set, and ``key`` (P,), its name;
- ``rotmat`` (P, 24, 3, 3), ``betas`` (P, 10), ``transl`` (P, 3) m: the bodies;
- ``unit_of_view`` (O,), ``transl_cam`` (O, 3) m, ``intrinsics_crop`` (O, 3, 3): their cameras;
- ``score`` (P,), of methods that find people; there ``unit`` is -1 and the key is the image's;
- ``extra_<name>`` (P or O, ...): what the protocol reads beside bodies.

Stages, and candidates of a score up to 0.05, are left out.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from hmrkit.scoring.rows import joined
from hmrkit.types import Batch, Prediction

_MIN_SCORE = 0.05


class WritePredictions(pl.Callback):
    """Collects what a network says in a test and writes it in the end.

    Args:
        path: of the npz.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.tables: dict[str, list[dict[str, np.ndarray]]] = {}
        self.views: dict[str, list[dict[str, np.ndarray]]] = {}

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Any,
        outputs: Prediction,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what was said about a batch."""
        source = trainer.datamodule.test_names[dataloader_idx]
        extras = type(pl_module.protocols[source]).extras
        people, views = as_columns(outputs, batch, extras)
        self.tables.setdefault(source, []).append(people)
        self.views.setdefault(source, []).append(views)

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Write what all processes have kept (the first one)."""
        parts: list[Any] = [(self.tables, self.views)]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, (self.tables, self.views))
        if not trainer.is_global_zero:
            return
        arrays = {}
        for source in self.tables:
            for kind, by in ((0, "unit"), (1, "unit_of_view")):
                columns = joined([chunk for part in parts for chunk in part[kind][source]])
                order = np.argsort(columns[by], kind="stable")
                arrays |= {f"{source}/{name}": v[order] for name, v in columns.items()}
        nodes = {name: pl_module.config[name] for name in ("body", "data")}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("wb") as file:
            np.savez_compressed(file, config=np.array(json.dumps(nodes)), **arrays)


def as_columns(
    prediction: Prediction, batch: Batch, extras: Sequence[str] = ()
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Columns of the people and of the views of a batch, see the module."""
    body = prediction.body
    rotmat = torch.cat([body.global_orient[:, None], body.body_pose], dim=1)
    people = {"rotmat": rotmat, "betas": body.betas, "transl": body.transl}
    views = {
        "transl_cam": prediction.transl_cam,
        "intrinsics_crop": prediction.intrinsics_crop,
    }
    for name in extras:
        if (value := prediction.extra.get(name)) is not None:
            table = people if len(value) == len(rotmat) else views
            table[f"extra_{name}"] = value
    if prediction.score is not None and prediction.image_of_person is not None:
        is_kept = prediction.score > _MIN_SCORE
        people |= {"score": prediction.score}
        people, views = ({k: v[is_kept] for k, v in table.items()} for table in (people, views))
        image = prediction.image_of_person[is_kept].cpu().numpy()
        own_unit = view_unit = np.full(len(image), -1)
        keys = np.asarray(batch["key"])[image]
    else:
        own_unit = batch["index"].cpu().numpy()
        owner = batch["person_of_view"].cpu().numpy() if "person_of_view" in batch else None
        view_unit = own_unit if owner is None else own_unit[owner]
        keys = np.asarray(batch["key"])
        if owner is not None:
            first = np.unique(owner, return_index=True)[1]
            keys = keys[batch["image_of_view"].cpu().numpy()[first]]
    as_float = {k: v.float().cpu().numpy() if v.is_floating_point() else v.cpu().numpy()
                for k, v in people.items()}  # fmt: skip
    return (
        {"unit": own_unit, "key": keys, **as_float},
        {"unit_of_view": view_unit, **{k: v.float().cpu().numpy() for k, v in views.items()}},
    )
