"""SAT-HMR: everybody in a whole image at once, small people looked at more closely.

Paper: Su et al., "SAT-HMR: Real-Time Multi-Person 3D Mesh Estimation via Scale-Adaptive Tokens",
CVPR 2025. Authors' code: github.com/ChiSu001/SAT-HMR at 7b157fadc02f3dcf5d8ef8ce400b226ebc079477,
Apache-2.0; nothing was copied, the code was written from a description and checked against numbers.
Weights: the authors' ``sat_644.pth``, ``sat_644_3dpw.pth``, ``sat_644_agora.pth``; training begins
with DINOv2's ``dinov2_vitb14_pretrain.pth`` (Apache-2.0).

========================== ====================================================
term in the paper          symbol
========================== ====================================================
SAT-HMR                    hmrkit.models.sathmr.model.SATHMR
scale-adaptive encoder     hmrkit.models.sathmr.encoder.AdaptiveEncoder
scale map                  hmrkit.models.sathmr.tokens.scale_map
scale head                 hmrkit.models.sathmr.encoder.ScaleHead
scale-adaptive tokens      hmrkit.models.sathmr.tokens.select
background pooling         hmrkit.models.sathmr.tokens.pool
Z-order curve              hmrkit.models.sathmr.tokens.morton_code
human queries              hmrkit.models.sathmr.decoder.Decoder
denoising queries          hmrkit.models.sathmr.denoising.Denoiser
Hungarian matching         hmrkit.models.sathmr.matcher.match
loss                       hmrkit.models.sathmr.loss.SATHMRLoss
evaluation                 hmrkit.scene_evaluation.SceneProtocol
matching in evaluation     hmrkit.scene_evaluation.match_people
AGORA's test archive       hmrkit.submission.AgoraSubmission
========================== ====================================================

Deviations:

* Attention takes the images of a batch one after the other with PyTorch's own kernels; upstream
  packs them for xFormers.
* The denoising terms of all layers count, as upstream's do since 920b138 (2026), after the
  published weights; ``loss.with_inner_denoising=false`` restores the sum before.
* Denoising slots that a batch mate's crowd leaves empty are neither looked at nor scored, so an
  image's loss does not depend on its batch; ``net.denoiser.with_empty_slots=true`` restores
  upstream's.
* Which people carry exact 3D labels is a property of their source (``Batch.has_exact_labels``).
  People without a labelled joint of the body are ignored, cells of an image in which somebody's
  body is unknown do not enter the terms of the scale map; upstream's data has no such people.
* ``loss.partly_labelled_sources`` spares queries in images where not everybody is labelled,
  which upstream's ``detect_all_people`` was meant to do and does not.
* Labels of the scale map are drawn with the neutral body, upstream draws 3DPW's with gendered ones;
  surface behind the camera is left out, upstream projects it mirrored.
* Poses are compared as axis-angles of at most half a turn; upstream compares with whatever the data
  set stores. A 6D rotation of zeros, which is none, becomes half a turn about another axis.
* The position table of the low-resolution tokens is computed in every pass; upstream's evaluation
  keeps that of the first.
* Evaluation meshes the people who are found, upstream all candidates. Images without a visible
  person are evaluated, upstream stops at them.
* Divisors of losses are means over the processes for every term, upstream's focal terms are means
  of each process.
"""
