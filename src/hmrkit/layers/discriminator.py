"""HMR's pose prior: a discriminator that tells real bodies from predicted ones, joint by joint."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_NUM_JOINTS = 23  # without the root


class PoseDiscriminator(nn.Module):
    """Body pose and shape to 25 scores: one per joint, one of the shape, one of all joints at once.

    Trained by least squares: 1 for real, 0 for predicted bodies (Kanazawa et al. 2018, equation 4).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(9, 32, 1)
        self.conv2 = nn.Conv2d(32, 32, 1)
        self.joint_out = nn.ModuleList(nn.Linear(32, 1) for _ in range(_NUM_JOINTS))
        self.betas_fc1 = nn.Linear(10, 10)
        self.betas_fc2 = nn.Linear(10, 5)
        self.betas_out = nn.Linear(5, 1)
        self.all_fc1 = nn.Linear(32 * _NUM_JOINTS, 1024)
        self.all_fc2 = nn.Linear(1024, 1024)
        self.all_out = nn.Linear(1024, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, body_pose: Tensor, betas: Tensor) -> Tensor:
        """Rotations (P, 23, 3, 3) and betas (P, 10) to scores (P, 25)."""
        matrices = body_pose.flatten(2).transpose(1, 2).unsqueeze(-1)  # (P, 9, 23, 1)
        features = F.relu(self.conv2(F.relu(self.conv1(matrices))))  # (P, 32, 23, 1)
        weight = torch.cat([layer.weight for layer in self.joint_out])  # (23, 32)
        bias = torch.cat([layer.bias for layer in self.joint_out])
        of_joints = torch.einsum("pcj,jc->pj", features[..., 0], weight) + bias
        hidden = F.relu(self.betas_fc2(F.relu(self.betas_fc1(betas))))
        of_shape = self.betas_out(hidden)
        hidden = F.relu(self.all_fc2(F.relu(self.all_fc1(features.flatten(1)))))
        return torch.cat([of_joints, of_shape, self.all_out(hidden)], dim=1)
