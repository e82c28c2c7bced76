"""HeatFormer: several calibrated views, compared with what the estimate would look like in them.

Paper: Matsubara, Nishino, "HeatFormer: A Neural Optimizer for Multiview Human Mesh Recovery", CVPR
2025, arXiv 2412.04456. Authors' code: github.com/kyotovision-public/HeatFormer at
ad348897cd7dd7a824a1a029adf1753b1ff996d7, MIT licence; nothing was copied, the code was written from
a description and checked against numbers. Weights: the authors' ``model_best_iter3.pth.tar`` and
``model_best_iter4.pth.tar``, which hold parts of SMPL's licensed template; those are left behind.

============================== ====================================================================
term in the paper              symbol
============================== ====================================================================
HeatFormer                     hmrkit.models.heatformer.model.HeatFormer
neural optimizer               hmrkit.models.heatformer.model.HeatFormer
heatmap generation             hmrkit.models.heatformer.heatmaps.HeatmapDrawer
HeatEncoder                    hmrkit.models.heatformer.heatmaps.HeatEncoder
transformer decoder            hmrkit.models.heatformer.decoder.ViewDecoder
3D positional encoding         hmrkit.models.heatformer.decoder.PositionEmbedding
initial estimate               hmrkit.models.heatformer.estimate.InitialEstimate
AdaFuse, score fusion          hmrkit.models.heatformer.fusion.fuse_heatmaps
triangulated pseudo label      hmrkit.models.heatformer.fusion.triangulate
loss                           hmrkit.models.heatformer.loss.HeatFormerLoss
MPJPE of every view            hmrkit.models.heatformer.protocol.ViewProtocol
============================== ====================================================================

What it predicts: a body per view, in the axes of the view's camera (``estimate.view_bodies``),
which is what the authors score. ``Prediction.body`` is one body per person in the world: the mean
of the views' rotations, shapes and places, with the pelvis where the views were told to have it.

Deviations:

* People may be seen by any number of cameras, one too, and by different numbers within a batch. A
  single view has nothing to triangulate: the initial weak camera says where the pelvis is. Upstream
  fails on a batch of 1 and on a single view.
* Frozen parts run in evaluation mode. ``with_noise_in_frozen`` leaves them in training mode as
  upstream does: norms track the batch's statistics and the backbone skips blocks at random.
* Rotations are orthogonalised alike for every batch size; upstream's are wrong for three crops.
* Labelled rotations are compared as the shortest ones, whatever the file says. Predicted ones are
  taken as upstream takes them, between 0 and a whole turn; ``with_short_angles`` mends that.
* The heatmaps' term and the root have no gradient, as upstream. ``with_gradient_of_heatmaps`` and
  ``trainable=[initial]`` give them one; ``with_root_refinement`` lets the iterations turn the root,
  ``with_root_of_torso`` begins at the root that the triangulated joints show. Of the loss,
  ``orientation`` compares roots as matrices and ``earlier`` scores the earlier iterations too.
* A view that augmentation mirrored is seen by a mirrored camera whose image is mirrored back; the
  authors do not mirror.
* Views are put in a random order, every one as likely; upstream swaps each pair with even odds.
* Every view of the evaluated sets is scored; upstream leaves out those of the last, smaller batch.
* Depths of epipolar lines are 1 m and 5 m; for BEHAVE upstream's are 1000 m and 5000 m, whose lines
  are the same but for rounding.
* Where upstream encodes every patch of every heatmap and every position in every iteration, this
  encodes patches with a joint, and positions and context once; the results are the same.
* One joint regressor: the body's own ``J_regressor_h36m``. Upstream's is
  ``J_regressor_h36m_correct.npy``, whose rows have the right leg first.
"""
