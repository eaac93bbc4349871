"""The cluster of the tests: its own name, port and kubeconfig, so that a running ``make up`` is not disturbed."""

from pathlib import Path

from cluster.local import Target

TARGET = Target(
    name="hub-steward-test",
    port=30180,
    values=(Path(__file__).parent / "support" / "values.yaml",),
    own_kubeconfig=True,
)
