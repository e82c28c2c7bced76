"""Predictions from a file in the place of a network: scored by the same code, shown likewise."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from hmrkit import configs
from hmrkit.body.smpl import SMPL
from hmrkit.checkpoints import TRUSTED, check_targets
from hmrkit.module import HMRModule
from hmrkit.scoring.archives import FoundPeople, read_agora_archive, read_phalp
from hmrkit.types import Batch, Body, Prediction

_RUN = "run_dir=run"  # the config of a training names one; nothing is written there


@dataclass(frozen=True)
class Table:
    """What was said about a test set, see ``predictions.py``; sorted by unit."""

    columns: Mapping[str, np.ndarray]

    def rows(self, by: str, wanted: np.ndarray) -> np.ndarray:
        """Rows whose unit is among the wanted ones, in the order of these."""
        units = self.columns[by]
        first, end = (np.searchsorted(units, wanted, side=side) for side in ("left", "right"))
        return np.concatenate([np.arange(a, b) for a, b in zip(first, end, strict=True)])


class Recorded(nn.Module):
    """Looks up what our own npz says about a batch.

    Args:
        path: for messages.
        tables: of every test set.
    """

    def __init__(self, path: Path, tables: Mapping[str, Table]) -> None:
        super().__init__()
        self.path, self.tables = path, tables

    def forward(self, batch: Batch, body_model: SMPL) -> Prediction:
        """The prediction for a batch of the test set that the file is about.

        Raises:
            ValueError: if the file says nothing about it.
        """
        source = batch["source"][0]
        if source not in self.tables:
            raise ValueError(
                f"{self.path} holds predictions of {', '.join(self.tables)} and not of {source}: "
                "score them on the test set they were made on"
            )
        table, device = self.tables[source], batch["image"].device if "image" in batch else None
        if "score" in table.columns:
            rows, image = _rows_of_images(table.columns["key"], batch["key"])
            return _prediction(table.columns, rows, rows, device, image)
        unit = np.unique(batch["index"].cpu().numpy())
        people, views = table.rows("unit", unit), table.rows("unit_of_view", unit)
        keys = set(table.columns["key"][people].tolist())
        if len(people) != len(batch["has_pose"]) or keys != set(batch["key"]):
            raise ValueError(
                f"{self.path} says nothing, or something else, about the records "
                f"{sorted(set(batch['key']))[:3]} of {source}: it is of other shards, or of an "
                "evaluation that was interrupted"
            )
        return _prediction(table.columns, people, views, device)


class RecordedPeople(nn.Module):
    """Looks up whom another program has found in the images of a batch.

    Args:
        path: for messages.
        people: of all images.
    """

    def __init__(self, path: Path, people: FoundPeople) -> None:
        super().__init__()
        self.path, self.people = path, people
        self.known: dict[str, bool] = {}  # by name of an image: whether the file names it

    def check(self) -> None:
        """Compare names after a test.

        Raises:
            ValueError: if the file names none of the images; some may show nobody.
        """
        if self.known and not any(self.known.values()):
            raise ValueError(
                f"{self.path} names none of the images {', '.join(sorted(self.known)[:3])}, ...; "
                f"it names {self.people.examples()}, ...: is it of this test set?"
            )

    def forward(self, batch: Batch, body_model: SMPL) -> Prediction:
        """The people of a batch of whole images; nobody is in an image that the file leaves out.

        Raises:
            ValueError: if the file holds meshes of another body.
        """
        if self.people.mesh is not None:
            num = self.people.mesh[0].shape[1]
            if num != body_model.num_vertices:
                raise ValueError(
                    f"{self.path} holds meshes of {num} vertices, the body {body_model.name!r} has "
                    f"{body_model.num_vertices}: is it SMPL's (6890), and body= what it is scored "
                    "with?"
                )
        known = [self.people.rows_of(key) for key in batch["key"]]
        self.known |= {k: rows is not None for k, rows in zip(batch["key"], known, strict=True)}
        found = [np.empty(0, int) if rows is None else rows for rows in known]
        image = np.repeat(np.arange(len(found)), [len(rows) for rows in found])
        rows, device = np.concatenate(found).astype(int), batch["image"].device
        full_hw = batch["full_size"].cpu().numpy()[image]
        input_hw = batch["input_size"].cpu().numpy()[image]
        return self.people.prediction(rows, image, full_hw, input_hw, device)


class RecordedPeopleModule(HMRModule):
    """Says after a test if the file was of other images."""

    def on_test_end(self) -> None:
        """See ``RecordedPeople.check``."""
        self.net.check()


def recorded_module(
    path: Path, changes: Mapping[str, Any], trusted: Sequence[str] = ()
) -> HMRModule:
    """A module that answers from a file.

    Args:
        path: our npz, an archive for AGORA's server (zip), or a result of 4D-Humans (pkl).
        changes: nodes ``body`` and ``data``: merged into those of our npz; of other files, whose
            bodies are SMPL's and who show whole images, in their place.
        trusted: packages, beside hmrkit and torch, whose classes our npz may name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is none of these, or is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: give predictions=<.npz, .zip or .pkl>")
    make = HMRModule
    if path.suffix == ".npz":
        net, config = _read_own(path)
        config = configs.merge(config, {name: changes[name] for name in ("body", "data")})
        for node in ("body", "data"):
            check_targets(config[node], (*TRUSTED, *(f"{name}." for name in trusted)), path)
    elif path.suffix in (".zip", ".pkl"):
        people = read_agora_archive(path) if path.suffix == ".zip" else read_phalp(path)
        make, net = RecordedPeopleModule, RecordedPeople(path, people)
        composed = configs.load_config("train", ["model=hmr", "body=smpl", "data=scenes", _RUN])
        config = {name: changes[name] for name in ("body", "data")}
        for name, node in config.items():
            if "_target_" not in (node.get("cut", {}) if name == "data" else node):
                config[name] = configs.merge(configs.to_plain(composed[name]), node)
    else:
        raise ValueError(
            f"predictions={path}: expected .npz (hmrkit's predictions_out=), .zip (an archive for "
            "AGORA's server) or .pkl (a result of 4D-Humans)"
        )
    config = configs.merge(config, {"mix": {}})
    body = instantiate(config["body"])
    return make(net, nn.Identity(), body, None, None, config).eval()


def _read_own(path: Path) -> tuple[Recorded, dict[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            config = json.loads(str(arrays["config"]))
            tables: dict[str, dict[str, np.ndarray]] = {}
            for name in arrays.files:
                source, _, column = name.rpartition("/")
                if source:
                    tables.setdefault(source, {})[column] = arrays[name]
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(
            f"{path} is no file of predictions_out=, or is damaged: {error}"
        ) from error
    return Recorded(path, {name: Table(columns) for name, columns in tables.items()}), config


def _rows_of_images(keys: np.ndarray, wanted: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the people in some images, and which of these each is in."""
    found = [np.flatnonzero(keys == key) for key in wanted]
    image = np.repeat(np.arange(len(wanted)), [len(rows) for rows in found])
    return np.concatenate(found), image


def _prediction(
    columns: Mapping[str, np.ndarray],
    people: np.ndarray,
    views: np.ndarray,
    device: Any,
    image: np.ndarray | None = None,
) -> Prediction:
    def read(name: str, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(columns[name][rows]).to(device)

    rotmat = read("rotmat", people)
    num = len(columns["unit"])
    return Prediction(
        body=Body(rotmat[:, 0], rotmat[:, 1:], read("betas", people), read("transl", people)),
        transl_cam=read("transl_cam", views),
        intrinsics_crop=read("intrinsics_crop", views),
        score=None if image is None else read("score", people),
        image_of_person=None if image is None else torch.from_numpy(image).to(device),
        extra={
            name.removeprefix("extra_"): read(name, people if len(values) == num else views)
            for name, values in columns.items()
            if name.startswith("extra_")
        },
    )
