"""All faults that are injected into our core, and those that have no home here, with the reason."""

from tests.faults import adapters, attention, data, loss, training
from tests.faults.naming import NAMING

FAULTS = tuple(
    fault._replace(named_by=NAMING.get(fault.id, ()))
    for fault in (*attention.FAULTS, *loss.FAULTS, *training.FAULTS, *data.FAULTS, *adapters.FAULTS)
)

ELSEWHERE = {
    "rope-meta-cache-uninit": "no table of rotations is kept; each forward pass computes its own",
    "tie-lora-merge-into-embedding": "the head takes no adapter, and merging refuses a shared weight",
    "lora-qkv-index": "queries, keys and values are three matrices, never one",
    "metric-accuracy-unshifted": "no accuracy is computed",
    "metric-mfu-world": "utilization is measured by the bench, of one device",
}
