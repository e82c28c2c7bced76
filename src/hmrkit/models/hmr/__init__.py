"""HMR and CLIFF: regress the SMPL parameters of one person from one crop, by iteration.

Papers: Kanazawa et al., "End-to-end Recovery of Human Shape and Pose", CVPR 2018, in SPIN's form
(Kolotouros et al., ICCV 2019); Li et al., "CLIFF: Carrying Location Information in Full Frames into
Human Pose and Shape Estimation", ECCV 2022. Both as Meta-HMR (arXiv 2401.14121) trains them.
Authors' code: github.com/fmx789/Meta-HMR at d7df13a92c56b3289e97f98e337cb9032780a1f0, which has no
licence file; nothing was copied, the code was written from a description and checked against
numbers. Weights: `hmr_resnet_3dpw.pt`, `hmr_resnet_h36m.pt`, `cliff_hrnet_3dpw.pt` and
`cliff_hrnet_h36m.pt` there (no licence given), `hmr.pt` of SPIN,
`res50-PA45.7_MJE72.0_MVE85.3_3dpw.pt` and `hr48-PA43.0_MJE69.0_MVE81.2_3dpw.pt` of CLIFF (see
their own terms).

======================== ==================================================
term in the papers       symbol
======================== ==================================================
encoder                  hmrkit.layers.resnet.ResNet
encoder (HR-W48)         hmrkit.layers.hrnet.ClassificationHRNet
regressor, IEF           hmrkit.models.hmr.model.IterativeRegressor
mean parameters          hmrkit.models.hmr.model.mean_parameters
weak camera              hmrkit.geometry.cameras.weak_perspective_to_transl
CLIFF                    hmrkit.models.hmr.cliff.CLIFF
bbox info                hmrkit.models.hmr.cliff.box_information
full-frame translation   hmrkit.geometry.cameras.cliff_transl
full-frame reprojection  hmrkit.models.hmr.cliff.intrinsics_of_box
loss                     hmrkit.models.hmr.loss.HMRLoss
======================== ==================================================

Deviations:

* A batch in which no sample carries a label gives a term of 0; upstream crashes.
* A sample counts for the 3D keypoints when both hips are labelled; upstream decides per file.
* ``fc1`` is applied to the feature once and to the running estimate in each iteration: the same
  linear map, equal to rounding.
* Somebody without a gender is scored against the neutral body, upstream takes the male one:
  ``unknown_gender: male`` in the protocol of the source does too.
* Crops are smoothed before they are shrunk; ``data.cut.with_antialias=false`` samples as upstream.
* 2D keypoints of a dataset that has no OpenPose detections count in the mean's denominator as
  upstream's do (``joint_set: spin49``); ``joint_set: smpl24`` trains on SMPL's own joints alone.
* CLIFF's principal point is the middle of the image, mirrored images included, as upstream; its
  focal length is the mean of both axes' where they differ.
* The pose network's heatmap layer, which nothing reads, is left out.
"""
