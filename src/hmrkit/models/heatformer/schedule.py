"""The learning rate of HeatFormer's training, by epochs."""

from torch.optim.lr_scheduler import MultiStepLR


class EpochMultiStepLR(MultiStepLR):
    """``MultiStepLR`` whose milestones are epochs: the first one with the lower rate, from 0 on."""

    interval = "epoch"  # read by ``HMRModule.configure_optimizers``
