"""A network of crops as ONNX: ``python -m hmrkit.export checkpoint=<file.ckpt> output=x.onnx``."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from hmrkit import configs

if TYPE_CHECKING:
    from hmrkit.graph import Parity

log = logging.getLogger(__name__)


def export(config: DictConfig) -> None:
    """Write the graph and a JSON file about it, and compare it with PyTorch.

    Args:
        config: the composed ``export.yaml``.

    Raises:
        ValueError: if the method has no such graph, or the written one computes something else.
    """
    import torch

    from hmrkit import graph
    from hmrkit.infer.loading import load_for_pictures

    path = Path(config.output)
    graph.check_output(path)
    for noisy in ("onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    torch.set_num_threads(config.threads)
    module, _ = load_for_pictures(Path(config.checkpoint), "cpu", config.trusted)
    made = graph.make_graph(module, config.joint_set if config.mesh else None)
    graph.write_graph(made, graph.trace_graph(made), path, config.opset)
    about = graph.describe(made, module.config["data"]["cut"])
    run = graph.open_graph(path, config.threads)
    parity = graph.compare(made, run, config.batch_sizes)
    about["parity"] = {row.output: row.difference for row in parity}
    path.with_suffix(".json").write_text(json.dumps(about) + "\n", encoding="utf-8")
    inputs = ", ".join(f"{k} {tuple(f['shape'])}" for k, f in about["inputs"].items())
    log.info("%s: %s -> %s", path, inputs, ", ".join(about["outputs"]))
    if config.mesh and module.body.name != "free":
        log.info("the file holds the body %s, whose licence holds for it", module.body.name)
    log.info("\nbatches of %s, compared with PyTorch:\n%s", *_parity(parity, config.batch_sizes))
    wrong = [row.output for row in parity if not row.is_within(config.tolerance)]
    if wrong:
        raise ValueError(f"{path} differs from PyTorch in {', '.join(wrong)}: do not use it")
    rows = ["| batch | PyTorch, ms per crop | exported |", "| ---: | ---: | ---: |"]
    for num in config.batch_sizes:
        tried = graph.example_inputs(made.net.input_size, made.extra_inputs, num)
        both = (graph.eager(made), run)
        times = [1e3 * graph.seconds_per_crop(one, tried, config.repetitions) for one in both]
        rows.append(f"| {num} | {times[0]:.2f} | {times[1]:.2f} |")
    log.info("\n%s\n(CPU, threads=%d)", "\n".join(rows), config.threads)


def _parity(parity: Sequence["Parity"], batch_sizes: Sequence[int]) -> tuple[str, str]:
    rows = ["| output | largest difference | of values up to |", "| --- | ---: | ---: |"]
    rows += [f"| {row.output} | {row.difference:.1e} | {row.largest:.3g} |" for row in parity]
    return ", ".join(map(str, batch_sizes)), "\n".join(rows)


def main() -> None:
    """Console entry point."""
    configs.run("export", export)


if __name__ == "__main__":
    main()
