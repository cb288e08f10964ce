"""Private, verified neural-network inference on servers that are not trusted.

    model = securedl.Model.from_onnx("digits.onnx")
    plan = securedl.compile(model, calibrate=samples)
    with_server = securedl.Client(plan, "server:7443", ca="tls")
    result = with_server.classify(samples)
    result.labels, result.verdict, result.soundness

Samples are NumPy arrays with one row each; of images, with their channels last. `securedl.ray` spreads the
work of a server over a Ray cluster.
"""

from securedl._native import (
    Audit,
    Batch,
    Client,
    Error,
    Fingerprint,
    Forecast,
    Gateway,
    Journal,
    KeyHolder,
    Model,
    Plan,
    Progress,
    Receipt,
    RefusedError,
    Result,
    Samples,
    Segment,
    SegmentEvaluator,
    Simulation,
    Soundness,
    Verdict,
    VerdictError,
    compile,
    init_tls,
)

__all__ = [
    "Audit",
    "Batch",
    "Client",
    "Error",
    "Fingerprint",
    "Forecast",
    "Gateway",
    "Journal",
    "KeyHolder",
    "Model",
    "Plan",
    "Progress",
    "Receipt",
    "RefusedError",
    "Result",
    "Samples",
    "Segment",
    "SegmentEvaluator",
    "Simulation",
    "Soundness",
    "Verdict",
    "VerdictError",
    "compile",
    "init_tls",
]
