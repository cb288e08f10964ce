"""Audit a service that answers in the clear: is the model behind it still ours?

    python fingerprint_audit.py MODEL SAMPLES.npy

needs a model (`securedl train`, `securedl import`, `Model.save`) and some raw samples, one row each.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import securedl

if len(sys.argv) != 3:
    sys.exit(print("SKIPPED: name a model and samples; see the first lines of this file"))
model = securedl.Model.load(sys.argv[1])
samples = np.load(sys.argv[2])

# Once, by whoever owns the model; the file is a secret.
path = Path(tempfile.mkdtemp(), "model.fp")
print("made:    ", securedl.Fingerprint.generate(model, samples, path, count=8))

# An honest service answers as the model does. Any function from samples to labels or scores can be asked.
fingerprint = securedl.Fingerprint.load(path)
honest = fingerprint.verify(lambda samples: model.scores(samples))
print("honest:  ", honest)


def tampered(samples):
    """A service whose model prefers the first class a little."""
    scores = model.scores(samples)
    return scores + np.eye(scores.shape[1])[0] * 0.05 * np.abs(scores).max()


caught = fingerprint.verify(tampered)
print("tampered:", caught, "at samples", caught.samples)
sys.exit(0 if honest.is_same and not caught.is_same else 1)
