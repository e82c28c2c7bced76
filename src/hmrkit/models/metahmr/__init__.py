"""Meta-HMR: train a network so that a gradient step on 2D evidence improves it, then take steps.

Paper: Nie et al., "Incorporating Test-Time Optimization into Training with Dual Networks for Human
Mesh Recovery", arXiv 2401.14121. Authors' code: github.com/fmx789/Meta-HMR at
d7df13a92c56b3289e97f98e337cb9032780a1f0, which has no licence file; nothing was copied, the code
was written from a description and checked against numbers. Weights: ``cliff_hrnet_3dpw.pt``,
``cliff_hrnet_h36m.pt``, ``hmr_resnet_3dpw.pt`` and ``hmr_resnet_h36m.pt`` there (no licence given).

========================== =======================================================
term in the paper          symbol
========================== =======================================================
main, auxiliary network    hmrkit.models.metahmr.model.MetaHMR
inner loop, outer loop     hmrkit.models.metahmr.module.MetaHMRModule
test-time optimisation     hmrkit.adapt.adapt.Adapt
pseudo label loss          hmrkit.adapt.loss.InnerLoss
2D reprojection loss       hmrkit.adapt.loss.Evidence
outer loss                 the networks' own, hmrkit.models.hmr.loss.HMRLoss
========================== =======================================================

Both networks are plain ones, HMR or CLIFF with any backbone, handed in by the configuration; steps
are functional calls of them.

Deviations:

* Test-time optimisation adapts each person alone by default, whatever the rest of the batch, and
  uses the pseudo labels of everybody. Upstream adapts all people of a batch together, so its
  numbers depend on the batch, and leaves out people whose annotation lacks that label; the option
  ``per_batch`` of the configuration's group ``adapt`` does so too.
* The backbone runs once for the inner and the outer loop, and the auxiliary network's once for all
  inner steps: the same losses, gradients and BatchNorm statistics, but for the count of batches.
* In first order the auxiliary network receives no gradient, so none is computed.
* The auxiliary network gives its pseudo labels in training mode, dropout and moving BatchNorm
  statistics included, as it does upstream; ``module.is_auxiliary_fixed=true`` does not.
* Without the dual-network step, early stopping does not compare the first loss with the one that
  is not used.
* A batch without any labelled person gives a term of 0; upstream fails.
* Plain training is ``num_inner_steps=0``; HMR's trainer, which cannot start upstream, is the same.
"""
