"""The cluster of the CSI tier, beside any other that runs."""

from pathlib import Path

from cluster.local import Target
from tests.target import TARGET as PLAIN

TARGET = Target(
    name="hub-steward-csi",
    port=30280,
    values=(*PLAIN.values, Path(__file__).parent / "values.yaml"),
    own_kubeconfig=True,
)
