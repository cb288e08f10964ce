"""Segment evaluation on a Ray cluster.

    driver (keys, encryption, checks, refresh)          cluster (ciphertexts and plans only)
    KeyHolder ─► Batch.request(block) ──── object store ────► evaluate, a Ray task
                 Batch.reply(block)   ◄─── object store ───── on any node

A segment evaluation is a pure function of plan, segment and request, so it does not matter where it happens or
how often: results are those of a run in one process, byte for byte. Placement, retries and the loss of nodes
are Ray's. A wrong reply is caught as that of a dishonest server is. But Ray unpickles what a worker returns: whoever
controls a worker can run code in the process that drives it. Where machines of the cluster may be hostile, keep
keys outside it: clients that go through the gateway (`python -m securedl.ray serve`) get bytes only.

`python -m securedl.ray --help` runs data sets and gateways from a shell.
"""

try:
    import ray as _ray  # noqa: F401
except ImportError as error:  # pragma: no cover
    raise ImportError("securedl.ray needs Ray: pip install 'securedl[ray]'") from error

from securedl.ray.driver import Progress, Report, classify, run
from securedl.ray.pool import Pool, connect

__all__ = ["Pool", "Progress", "Report", "classify", "connect", "run"]
