"""Make the heatmapper that ``experiment=heatformer_tiny`` begins with and keeps frozen.

``python tools/make_tiny_heatmapper.py output.safetensors --datasets datasets --steps 1500``

HeatFormer's 2D stage is trained before it; so is the tiny one's, on the same made-up rigs, by the
labelled joints of every view. The weights are stored in half precision.
"""

import argparse

import torch
from safetensors.torch import save_file

from hmrkit.checkpoints import build_module
from hmrkit.configs import load_config, to_plain
from hmrkit.models.heatformer.fusion import soft_argmax
from hmrkit.models.heatformer.loss import detection_entropy, detection_error, view_labels
from hmrkit.runs import build_datamodule


def main() -> None:
    """Train, print the distance to the labels, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output")
    parser.add_argument("--datasets", default="datasets")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--lr", type=float, default=3e-3)
    options = parser.parse_args()
    overrides = ["experiment=heatformer_tiny", "run_dir=."]
    overrides += [f"paths.datasets={options.datasets}", "data.cut.min_views=null"]
    overrides.append(f"data.steps_per_epoch={options.steps}")
    config = to_plain(load_config("train", overrides))
    data = build_datamodule(config, splits=["train"])
    data.prepare_data()
    data.setup("fit")
    module = build_module(config)
    net = module.net.heatmapper.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(net.parameters(), options.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.lr, total_steps=options.steps, pct_start=0.1
    )
    batches = iter(data.train_dataloader())
    for step in range(options.steps):
        batch = data.on_after_batch_transfer(next(batches), 0)
        with torch.autocast("cpu", torch.bfloat16):
            maps = net.joint_maps(batch["keypoint_image"]).float()
        labels = view_labels(batch, module.body, with_vertices=False).keypoints_crop
        entropy = detection_entropy(maps, labels, sigma=1.0)
        loss = entropy + 10 * detection_error(maps, labels, sigma=1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            points, peak = soft_argmax(maps.detach())
            target = (labels[..., :2] + 1) * maps.shape[-1] / 2
            distance = (points - target).norm(dim=-1).median()
            found = f"{distance:.2f} px of the maps, peak {peak.mean():.2f}"
            print(f"step {step + 1}: entropy {entropy:.2f}, {found}", flush=True)
    state = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, options.output)


if __name__ == "__main__":
    main()
