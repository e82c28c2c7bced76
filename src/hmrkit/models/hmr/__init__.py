"""HMR: regress the SMPL parameters of one person from one crop, by iteration.

Papers: Kanazawa et al., "End-to-end Recovery of Human Shape and Pose", CVPR 2018; the form built
here is SPIN's (Kolotouros et al., ICCV 2019), as Meta-HMR (arXiv 2401.14121) trains it.
Authors' code: github.com/fmx789/Meta-HMR at d7df13a92c56b3289e97f98e337cb9032780a1f0, which has no
licence file; nothing was copied, the code was written from a description and checked against
numbers. Weights: `hmr_resnet_3dpw.pt` and `hmr_resnet_h36m.pt` there (no licence given), `hmr.pt`
of SPIN (see its own terms).

================== ==================================================
term in the paper  symbol
================== ==================================================
encoder            hmrkit.layers.resnet.ResNet
regressor, IEF     hmrkit.models.hmr.model.IterativeRegressor
mean parameters    hmrkit.models.hmr.model.mean_parameters
weak camera        hmrkit.geometry.cameras.weak_perspective_to_transl
loss               hmrkit.models.hmr.loss.HMRLoss
================== ==================================================

Deviations:

* A batch in which no sample carries a label gives a term of 0; upstream crashes.
* A sample counts for the 3D keypoints when both hips are labelled; upstream decides per file.
* ``fc1`` is applied to the feature once and to the running estimate in each iteration: the same
  linear map, equal to rounding.
* Evaluation compares with the neutral body; upstream takes the male one where it knows no gender.
* Crops are smoothed before they are shrunk; ``data.cut.with_antialias=false`` samples as upstream.
* 2D keypoints of a dataset that has no OpenPose detections count in the mean's denominator as
  upstream's do (``joint_set: spin49``); ``joint_set: smpl24`` trains on SMPL's own joints alone.
"""
