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
BACKUP_COMPONENT = "volume-backup"
COPY_COMPONENT = "volume-copy"
NOTEBOOK_CONTAINER = "notebook"
JOB_NAME = "batch.kubernetes.io/job-name"

# Ours.
VOLUME = f"{GROUP}/volume"
RESET_BY = f"{GROUP}/reset-by"
RESOURCES = f"{GROUP}/resources"
RELEASE = f"{GROUP}/release"
#: Label: the UID of the request that an object was made for.
REQUEST = f"{GROUP}/request"
#: Annotation of a claim that holds a backup: what is in it. Only a verified backup has it.
BACKUP = f"{GROUP}/backup"
#: Annotation of a backup that a request is going to put back: its UID.
PINNED_BY = f"{GROUP}/pinned-by"
#: Annotation of a claim that a request has given up deleting: its UID. A delete still on its way fails on it.
KEPT_BY = f"{GROUP}/kept-by"
#: Annotation of a claim that a backup was put back into: the backup's name. Such a volume is new, but not empty.
RESTORED_FROM = f"{GROUP}/restored-from"
#: Annotation of a snapshot: the storage class of the claim that it was taken of.
STORAGE_CLASS = f"{GROUP}/storage-class"
SNAPSHOT_GROUP = "snapshot.storage.k8s.io"
SNAPSHOT_VERSION = "v1"
SNAPSHOTS = "volumesnapshots"
FINALIZER = f"{GROUP}/recreate-claims"
LEASE = "hubsteward-operator"
FIELD_MANAGER = "hubsteward-operator"

HOME = "home"
