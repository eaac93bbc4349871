"""Every way an undo goes on and ends: a reset whose contents come from a backup."""

from __future__ import annotations

import json
from typing import Any

import pytest
from steward_api import names
from steward_operator.core.model import Claim, Job, Refusal, Request
from steward_operator.core.plan_reset import plan_reset
from steward_operator.core.steps import (
    AnnotateClaim,
    CreateClaim,
    DeleteJob,
    RemoveFinalizer,
    Wait,
)

from tests.support.builders import after, claim, reset, stamp, status_of, told, with_status, world, written
from tests.support.under_way import AT, BOUND, FINAL, OK, is_stalled

Json = dict[str, Any]


def undoing(**more: Any) -> tuple[Request, Claim]:
    held = Claim({
        "metadata": {"name": "b", "uid": "b", "resourceVersion": "3", "creationTimestamp": stamp(),
                     "labels": {names.COMPONENT: names.BACKUP_COMPONENT, names.VOLUME: "workspace"},
                     "annotations": {names.USERNAME: "ann", names.PINNED_BY: "uid-r",
                                     names.BACKUP: json.dumps({"files": 1, "bytes": 2**31, "checksum": "c"})}},
        "spec": {}, "status": BOUND,
    })  # fmt: skip
    req = reset(contents={"from": "Backup", "name": "b"}, backup="None")
    req = written(req, plan_reset(world(req, claim(), held)))
    rows = [{**req.status["volumes"][0], "outcome": "Deleting", **more}]
    return with_status(req, FINAL, phase="Recreating", volumes=rows), held


def test_what_is_told_while_a_backup_is_put_back() -> None:
    req, held = undoing()
    new = claim(uid="workspace-2")
    name = "restore-workspace-uid-r"
    running = Job({"metadata": {"name": name, "uid": "j"}, "status": {}})
    step = plan_reset(world(req, new, held, jobs=(running,)))
    assert told(step) == ("Recreating", "InProgress", "The backup of Workspace is being put back.")
    again = with_status(written(req, step), FINAL)
    assert plan_reset(world(again, new, held, jobs=(running,))) == Wait("the copy runs", after(2))
    refused: dict[str, Refusal | None] = {f"job/{name}": Refusal(403, "exceeded quota")}
    step = plan_reset(world(req, new, held, answers=refused))
    assert told(step) == ("Recreating", "Retrying", "The backup cannot be put back yet: exceeded quota")
    assert is_stalled(step)
    again = with_status(written(req, step), FINAL)
    assert plan_reset(world(again, new, held, answers=refused)) == Wait("copy refused", after(5))


@pytest.mark.parametrize("how", ["cancelled", "deleted"])
def test_an_undo_whose_copy_is_refused_for_good_can_be_given_up(how: str) -> None:
    """The new claim is there, so that nothing is missing."""
    req, held = undoing()
    meta = {**req.meta, "deletionTimestamp": AT} if how == "deleted" else req.meta
    req = Request({**req.manifest, "metadata": meta, "spec": {**req.spec, "cancel": how == "cancelled"}})
    refused: dict[str, Refusal | None] = {**OK, "job/restore-workspace-uid-r": Refusal(403, "no Jobs here")}
    step = plan_reset(world(req, claim(uid="workspace-2"), held, answers=refused))
    row = status_of(step)["volumes"][0]
    sentence = "The backup could not be put back and is still there: no Jobs here"
    assert (row["outcome"], row["reason"], row["message"]) == ("Failed", "RestoreFailed", sentence)
    then = with_status(written(req, step), FINAL)
    step = plan_reset(world(then, claim(uid="workspace-2"), held, answers=OK))
    assert step == RemoveFinalizer(), "the pin stays: who gives up may try again another day"


def test_a_backup_that_is_gone_is_told_of_once_and_the_request_ends() -> None:
    req, held = undoing()
    new = claim(uid="workspace-2")
    step = plan_reset(world(req, new))
    row = status_of(step)["volumes"][0]
    assert told(step)[:2] == ("Recreating", "InProgress")
    assert (row["outcome"], row["reason"], row["message"]) == ("Failed", "RestoreFailed", "The backup b is gone.")
    failed = with_status(written(req, step), FINAL)
    assert plan_reset(world(failed, new)) == RemoveFinalizer()
    end = plan_reset(world(with_status(written(req, step)), new))
    assert told(end) == ("Failed", "RestoreFailed", "The backup b is gone.")
    unsealed = Claim({**held.manifest, "metadata": {**held.meta, "annotations": {names.USERNAME: "ann"}}})
    assert status_of(plan_reset(world(req, new, unsealed)))["volumes"][0]["reason"] == "RestoreFailed"


def test_a_copy_that_fails_says_that_the_backup_is_still_there() -> None:
    req, held = undoing()
    failed = Job({"metadata": {"name": "restore-workspace-uid-r", "uid": "j"},
                  "status": {"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]}})  # fmt: skip
    row = status_of(plan_reset(world(req, claim(uid="workspace-2"), held, jobs=(failed,))))["volumes"][0]
    assert row["message"] == "The copy failed: DeadlineExceeded. The backup b is still there."


def test_the_end_of_an_undo_and_what_goes_before_it() -> None:
    req, held = undoing(restored=True, newUID="workspace-2")
    new = claim(uid="workspace-2")
    job = Job({"metadata": {"name": "restore-workspace-uid-r", "uid": "j"}, "status": {}})
    assert plan_reset(world(req, new, held, jobs=(job,))) == DeleteJob("restore-workspace-uid-r", "j")
    assert plan_reset(world(req, new, held)) == AnnotateClaim("b", "b", "3", names.PINNED_BY, None)
    refused: dict[str, Refusal | None] = {f"annotate/b/{names.PINNED_BY}": Refusal(403, "no")}
    assert plan_reset(world(req, new, held, answers=refused)) == RemoveFinalizer()
    end = plan_reset(world(with_status(req), new))
    assert told(end) == ("Succeeded", "Restored", "The content of the backup is back: Workspace.")


def test_a_backup_as_large_as_the_volume_fits_and_a_larger_one_does_not() -> None:
    _, held = undoing()

    def sized(count: int) -> Claim:
        notes = {**held.annotations, names.BACKUP: json.dumps({"bytes": count})}
        return Claim({**held.manifest, "metadata": {**held.meta, "annotations": notes}})

    req = reset(contents={"from": "Backup", "name": "b"}, backup="None")
    assert status_of(plan_reset(world(req, claim(), sized(2**31))))["phase"] == "Preparing"
    said = told(plan_reset(world(req, claim(), sized(2**31 + 1))))
    assert said == ("Failed", "BackupMissing", "The backup 'b' does not fit into the volume any more.")
    for seen, sentence in (
        ((), "There is no backup 'b'."),
        ((Claim({**held.manifest, "metadata": {**held.meta, "annotations": {names.USERNAME: "ann"}}}),),
         "The backup 'b' is not complete."),
        ((Claim({**held.manifest, "metadata": {**held.meta, "labels": {**held.labels, names.VOLUME: "home"}}}),),
         "The backup 'b' is not of this volume of this user."),
    ):  # fmt: skip
        assert told(plan_reset(world(req, claim(), *seen)))[2] == sentence


def test_an_undo_keeps_what_is_there_now_whatever_the_volumes_entry_says() -> None:
    _, held = undoing()
    used = claim(status=BOUND)
    undo = reset(contents={"from": "Backup", "name": "b"})
    row = status_of(plan_reset(world(undo, used, held)))["volumes"][0]
    assert row["backup"] == {"provider": "Copy", "name": "backup-workspace-uid-r", "state": "Pending"}
    without = reset(contents={"from": "Backup", "name": "b"}, backup="None")
    assert "backup" not in status_of(plan_reset(world(without, used, held)))["volumes"][0]
    assert "backup" not in status_of(plan_reset(world(reset(), used)))["volumes"][0]


def test_a_backup_that_cannot_be_pinned_is_not_put_back() -> None:
    _, held = undoing()
    held = Claim({**held.manifest, "metadata": {**held.meta, "annotations": {
        names.USERNAME: "ann", names.BACKUP: json.dumps({"bytes": 1})}}})  # fmt: skip
    req = reset(contents={"from": "Backup", "name": "b"}, backup="None")
    req = written(req, plan_reset(world(req, claim(), held)))
    refused: dict[str, Refusal | None] = {**OK, f"annotate/b/{names.PINNED_BY}": Refusal(403, "no notes")}
    said = told(plan_reset(world(req, claim(), held, answers=refused)))
    assert said == ("Failed", "NotAllowed", "The backup could not be pinned: no notes")


def test_a_new_claim_that_goes_after_its_restore_failed_is_made_again() -> None:
    req, held = undoing(outcome="Failed", reason="RestoreFailed", message="It failed.", newUID="workspace-2")
    assert isinstance(plan_reset(world(req, held)), CreateClaim)
    step = plan_reset(world(req, claim(uid="workspace-3"), held))
    assert step == RemoveFinalizer(), "the pin stays on what could not be put back"
    let_go = with_status(req)
    end = plan_reset(world(let_go, claim(uid="workspace-3"), held))
    assert told(end) == ("Failed", "RestoreFailed", "It failed.")
    assert status_of(end)["volumes"][0]["newUID"] == "workspace-3"


def test_a_backup_that_fits_what_is_there_fits_what_will_be_made() -> None:
    _, held = undoing()
    grown = claim(status={"phase": "Bound", "capacity": {"storage": "3Gi"}})
    notes = {**held.annotations, names.BACKUP: json.dumps({"bytes": 3 * 2**30})}
    large = Claim({**held.manifest, "metadata": {**held.meta, "annotations": notes}})
    req = reset(contents={"from": "Backup", "name": "b"}, backup="None")
    assert status_of(plan_reset(world(req, grown, large)))["phase"] == "Preparing"
    assert told(plan_reset(world(req, claim(), large)))[1] == "BackupMissing"
