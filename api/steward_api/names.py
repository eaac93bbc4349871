"""Names that appear on cluster objects: API group, labels, annotations, fixed object names."""

GROUP = "hubsteward.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
CATEGORY = "jupyter"

VOLUME_RESET = "VolumeReset"
SERVER_RESTART = "ServerRestart"
PLURALS = {VOLUME_RESET: "volumeresets", SERVER_RESTART: "serverrestarts"}

# z2jh's and KubeSpawner's. The label of the same key holds a slug; the annotation holds the raw name.
USERNAME = "hub.jupyter.org/username"
SERVERNAME = "hub.jupyter.org/servername"
COMPONENT = "component"
SERVER_COMPONENT = "singleuser-server"
STORAGE_COMPONENT = "singleuser-storage"
NOTEBOOK_CONTAINER = "notebook"

# Ours.
VOLUME = f"{GROUP}/volume"
RESET_BY = f"{GROUP}/reset-by"
RESOURCES = f"{GROUP}/resources"
RELEASE = f"{GROUP}/release"
FINALIZER = f"{GROUP}/recreate-claims"
LEASE = "hubsteward-operator"
FIELD_MANAGER = "hubsteward-operator"

HOME = "home"
