"""Methods: name -> what to train for, a `Method`."""

from cdd.methods.autoencoder import AUTOENCODER
from cdd.methods.conditional import CONDITIONAL
from cdd.methods.finetune import FINETUNE
from cdd.methods.step_aware import STEP_AWARE

METHODS = dict(
  autoencoder=AUTOENCODER, conditional=CONDITIONAL, finetune=FINETUNE, step_aware=STEP_AWARE
)
