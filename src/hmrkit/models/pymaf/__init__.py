"""PyMAF: correct the estimate by looking at the image where its own surface lies.

Paper: Zhang et al., "PyMAF: 3D Human Pose and Shape Regression with Pyramidal Mesh Alignment
Feedback Loop", ICCV 2021. Authors' code: github.com/HongwenZhang/PyMAF at
c866830ae506e423a4349537b692f68b98cbb091 (branch smpl; the conference version is 8f4ab15), CC BY-NC;
nothing was copied, the code was written from a description and checked against numbers. Weights:
``PyMAF_model_checkpoint.pt``, under the same licence.

======================= ====================================================
term in the paper       symbol
======================= ====================================================
mesh-aligned features   hmrkit.models.pymaf.model.maf_sample
point-wise MLP          hmrkit.models.pymaf.model.PointMLP
regressor R_t           hmrkit.models.pymaf.model.Regressor
auxiliary supervision   hmrkit.models.pymaf.model.DenseHead
IUV target              hmrkit.models.pymaf.iuv.IUVRenderer
reduced vertices        hmrkit.models.pymaf.vertices.official_vertices
loss                    hmrkit.models.pymaf.loss.PyMAFLoss
best fits (SPIN's)      hmrkit.data.sources.static_fits.StaticFits
evaluation              hmrkit.spin_evaluation.StoredJoints
COCO keypoint AP        hmrkit.keypoint_ap.KeypointAP
======================= ====================================================

The dense targets are drawn on the device, a batch at once: 1.6 ms per person on one CPU thread,
mesh included, against 5.4 ms one by one in a loader's worker, which would also have to send the
pictures. The fits are joined to the annotations once, by ``prepare``, and turned and mirrored with
every sample; upstream looks them up in every step.

Deviations:

* The mesh is evaluated at the vertices that a loop looks at, not multiplied by a dense selection.
* The dense head runs in training only.
* A batch without labels gives a term of 0, and a sample without 2D labels no camera; upstream
  fails.
* A sample counts for the 3D keypoints when both hips are labelled; upstream decides per file.
* The recipes cut crops without upstream's whole-pixel roundings (``data/crops.py``);
  ``data.cut._target_=hmrkit.data.spin_crops.SpinCrops`` cuts them to the pixel, and the official
  checkpoint brings that along.
* U and V of the dense targets vary over a face, as in the authors' later version; their first
  one gave every face one value.
* Adam is the fused one: the same numbers to rounding.
"""
