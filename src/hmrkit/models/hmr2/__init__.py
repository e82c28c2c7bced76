"""HMR2.0: a vision transformer and one query, from one crop to one body.

Paper: Goel et al., "Humans in 4D: Reconstructing and Tracking Humans with Transformers", ICCV 2023.
Authors' code: github.com/shubham-goel/4D-Humans at 6ec79656a23c33237c724742ca2a0ec00b398b53, MIT
licence; nothing was copied, the code was written from a description and checked against numbers.
Weights: the authors' HMR2.0a and HMR2.0b (MIT; what they were trained on has terms of its own).

======================= ==================================================
term in the paper       symbol
======================= ==================================================
ViT-H/16                hmrkit.layers.vit.ViT
transformer decoder     hmrkit.layers.transformer.QueryDecoder
SMPL query              hmrkit.layers.transformer.QueryDecoder.pos_embedding
pose, shape, camera     hmrkit.models.hmr2.model.PoseHead
weak camera             hmrkit.geometry.cameras.weak_perspective_to_transl
L_smpl, L_kp3D, L_kp2D  hmrkit.models.hmr2.loss.HMR2Loss
pose prior              hmrkit.layers.discriminator.PoseDiscriminator
======================= ==================================================

Deviations:

* The crop's outer columns, which the backbone never sees, are cut off once, in the network.
* Rotations are made in float32 whatever the precision of the network.
* The loss is a sum over the batch of all processes. The authors' is the mean over processes of
  their sums; AdamW's steps do not depend on the factor.
* The self-attention of the only query is its value, projected; queries and keys are not computed.
"""
