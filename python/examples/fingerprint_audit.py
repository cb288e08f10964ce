"""Audit a service that answers in the clear: is the model behind it still ours?

Needs a model and its fingerprint, made with the command line:

    securedl train --data wine --network mlp --out wine.model
    securedl fingerprint generate wine.model --data wine --out wine.fp
    python fingerprint_audit.py wine.model wine.fp
"""

import sys

import numpy as np
import securedl

if len(sys.argv) != 3:
    sys.exit(print("SKIPPED: name a model and its fingerprint; see the first lines of this file"))
model = securedl.Model.load(sys.argv[1])
fingerprint = securedl.Fingerprint.load(sys.argv[2])

# An honest service answers as the model does. Any function from samples to labels or scores can be asked.
print("honest:  ", fingerprint.verify(lambda samples: model.scores(samples)))


def tampered(samples):
    """A service whose model prefers the first class a little."""
    scores = model.scores(samples)
    return scores + np.eye(scores.shape[1])[0] * 0.05 * np.abs(scores).max()


print("tampered:", fingerprint.verify(tampered))
