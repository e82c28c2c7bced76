"""TokenHMR: HMR2.0 whose body pose is made of tokens that a frozen tokenizer decodes.

Paper: Dwivedi et al., "TokenHMR: Advancing Human Mesh Recovery with a Tokenized Pose
Representation", CVPR 2024. Authors' code: github.com/saidwivedi/TokenHMR at
198645f7784a27a4df0eac32478b1e7bc3e13574, licensed for non-commercial research; nothing was copied,
the code was written from a description and checked against numbers. Weights: the authors'
``tokenhmr_model*.ckpt`` and ``tokenizer.pth``, under the same licence.

===================== ====================================================
term in the paper     symbol
===================== ====================================================
pose tokenizer        hmrkit.models.tokenhmr.tokenizer.PoseTokenizer
its training          hmrkit.models.tokenhmr.tokenizer.PoseAutoencoder
codebook              hmrkit.models.tokenhmr.tokenizer.Quantizer
token classification  hmrkit.models.tokenhmr.model.TokenClassifier
TokenHMR              hmrkit.models.tokenhmr.model.TokenHMR
TALS                  hmrkit.models.tokenhmr.loss.tals
loss                  hmrkit.models.tokenhmr.loss.TokenHMRLoss
tokenizer's loss      hmrkit.models.tokenhmr.loss.TokenizerLoss
===================== ====================================================

Deviations:

* The tokenizer is a frozen part of the network: saved with it, moved with it. The authors keep it
  in a file and an object of its own.
* Its moving averages are saved too, so a resumed training does not start the codebook anew, and
  they go on after an evaluation. Targets of its training have flat hands, like its predictions; the
  authors' targets have hands in SMPL+H's mean pose, a constant offset.
* Upstream pulls people of exact sources to the stored pose even where it is flagged as no label;
  ``loss.with_unlabelled_pose=true`` does so too.
* Which labels are exact is a property of the source (``has_exact_labels``), not of its name.
* The loss is a sum over the batch of all processes. The authors' is the mean over processes of
  their sums; AdamW's steps do not depend on the factor.
* The self-attention of the only query is its value, projected; queries and keys are not computed.
"""
