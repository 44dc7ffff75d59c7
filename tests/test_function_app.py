"""The triggers: which function gets which request."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluicegate.host.functions import Function, HttpFunction, TimerFunction, index, load_app
from sluicegate.tenancy.first_run import use_embedded_settings

ROOT = Path(__file__).parents[1]
OPERATIONS = {
    ("POST", "/openai/deployments/gpt/chat/completions"): "chat_completions",
    ("POST", "/openai/deployments/gpt/completions"): "completions",
    ("POST", "/openai/deployments/gpt/embeddings"): "embeddings",
    ("GET", "/openai/models"): "models_list",
    ("GET", "/openai/models/gpt"): "model_get",
    ("DELETE", "/openai/models/gpt"): "model_delete",
    ("POST", "/openai/v1/chat/completions"): "chat_completions_v1",
    ("POST", "/openai/v1/completions"): "completions_v1",
    ("POST", "/openai/v1/embeddings"): "embeddings_v1",
    ("GET", "/openai/v1/models"): "models_list_v1",
    ("GET", "/openai/v1/models/gpt"): "model_get_v1",
    ("DELETE", "/openai/v1/models/gpt"): "model_delete_v1",
    ("GET", "/openai"): "unknown_operation",
    ("GET", "/openai/v1/chat/completions"): "unknown_operation",
    ("POST", "/openai/v1/models"): "unknown_operation",
    ("GET", "/openai/files"): "files_list",
    ("POST", "/openai/files"): "files_create",
    ("GET", "/openai/files/file-1"): "file_get",
    ("DELETE", "/openai/files/file-1"): "file_delete",
    ("GET", "/openai/files/file-1/content"): "file_content",
    ("POST", "/openai/files/import"): "file_import",
    ("GET", "/openai/files/file-1/report"): "file_report",
    ("GET", "/openai/v1/files/file-1/report"): "file_report_v1",
    ("GET", "/openai/v1/files"): "files_list_v1",
    ("POST", "/openai/v1/files"): "files_create_v1",
    ("GET", "/openai/v1/files/file-1"): "file_get_v1",
    ("DELETE", "/openai/v1/files/file-1"): "file_delete_v1",
    ("GET", "/openai/v1/files/file-1/content"): "file_content_v1",
    ("POST", "/openai/uploads"): "part_upload_create",
    ("POST", "/openai/uploads/upload_1/parts"): "part_upload_part",
    ("POST", "/openai/uploads/upload_1/complete"): "part_upload_complete",
    ("POST", "/openai/uploads/upload_1/cancel"): "part_upload_cancel",
    ("POST", "/openai/v1/uploads"): "part_upload_create_v1",
    ("POST", "/openai/v1/uploads/upload_1/parts"): "part_upload_part_v1",
    ("POST", "/openai/v1/uploads/upload_1/complete"): "part_upload_complete_v1",
    ("POST", "/openai/v1/uploads/upload_1/cancel"): "part_upload_cancel_v1",
    ("POST", "/openai/files/file-1"): "unknown_operation",
    ("GET", "/openai/fine_tuning/jobs"): "fine_tuning_jobs_list",
    ("POST", "/openai/fine_tuning/jobs"): "fine_tuning_jobs_create",
    ("GET", "/openai/fine_tuning/jobs/ftjob-1"): "fine_tuning_job_get",
    ("DELETE", "/openai/fine_tuning/jobs/ftjob-1"): "fine_tuning_job_delete",
    ("GET", "/openai/fine_tuning/jobs/ftjob-1/events"): "fine_tuning_job_events",
    ("POST", "/openai/fine_tuning/jobs/ftjob-1/cancel"): "fine_tuning_job_cancel",
    ("POST", "/openai/fine_tuning/jobs/ftjob-1/pause"): "fine_tuning_job_pause",
    ("POST", "/openai/fine_tuning/jobs/ftjob-1/resume"): "fine_tuning_job_resume",
    ("GET", "/openai/v1/fine_tuning/jobs"): "fine_tuning_jobs_list_v1",
    ("POST", "/openai/v1/fine_tuning/jobs"): "fine_tuning_jobs_create_v1",
    ("GET", "/openai/v1/fine_tuning/jobs/ftjob-1"): "fine_tuning_job_get_v1",
    ("DELETE", "/openai/v1/fine_tuning/jobs/ftjob-1"): "fine_tuning_job_delete_v1",
    ("POST", "/openai/v1/fine_tuning/jobs/ftjob-1/cancel"): "fine_tuning_job_cancel_v1",
    ("POST", "/openai/v1/fine_tuning/jobs/ftjob-1/pause"): "fine_tuning_job_pause_v1",
    ("POST", "/openai/v1/fine_tuning/jobs/ftjob-1/resume"): "fine_tuning_job_resume_v1",
    ("GET", "/openai/v1/fine_tuning/jobs/ftjob-1/events"): "fine_tuning_job_events_v1",
    ("GET", "/openai/v1/fine_tuning/jobs/ftjob-1/checkpoints"): "fine_tuning_job_checkpoints_v1",
    ("GET", "/openai/fine_tuning/jobs/ftjob-1/checkpoints"): "fine_tuning_job_checkpoints",
    ("GET", "/subscriptions/0/providers/Microsoft.CognitiveServices/accounts"): "control_plane",
    ("PUT", "/subscriptions/0/resourceGroups/g/providers/Microsoft.CognitiveServices/accounts/a"): "control_plane",
    ("GET", "/governance/appeals"): "governance_appeals_list",
    ("POST", "/governance/appeals"): "governance_appeals_create",
    ("GET", "/governance/appeals/abc"): "governance_appeal",
    ("POST", "/governance/appeals/abc/ruling"): "governance_appeal_ruling",
    ("GET", "/governance/applications"): "governance_applications_list",
    ("POST", "/governance/applications"): "governance_applications_create",
    ("GET", "/governance/applications/abc"): "governance_application",
    ("DELETE", "/governance/applications/abc"): "governance_application_withdraw",
    ("POST", "/governance/applications/abc/decision"): "governance_application_decision",
    ("GET", "/governance/audit"): "governance_audit",
    ("GET", "/governance/cases"): "governance_cases_list",
    ("GET", "/governance/cases/abc"): "governance_case",
    ("POST", "/governance/cases/abc/access"): "governance_case_access",
    ("DELETE", "/governance/cases/abc/access/def"): "governance_case_access_revoke",
    ("POST", "/governance/cases/abc/access/def/approve"): "governance_case_access_approve",
    ("GET", "/governance/cases/abc/content"): "governance_case_content",
    ("POST", "/governance/cases/abc/decision"): "governance_case_decision",
    ("GET", "/governance/checkpoint"): "governance_checkpoint",
    ("GET", "/governance/debug-access"): "governance_debug_list",
    ("POST", "/governance/debug-access"): "governance_debug_ask",
    ("POST", "/governance/debug-access/invitations"): "governance_debug_invite",
    ("DELETE", "/governance/debug-access/abc"): "governance_debug_revoke",
    ("POST", "/governance/debug-access/abc/accept"): "governance_debug_accept",
    ("POST", "/governance/debug-access/abc/approve"): "governance_debug_approve",
    ("GET", "/governance/debug-access/abc/content"): "governance_debug_content",
    ("GET", "/governance/export"): "governance_export",
    ("GET", "/governance/ledger"): "governance_ledger_read",
    ("GET", "/governance/ledger/export"): "governance_ledger_export",
    ("GET", "/governance/ledger/receipts"): "governance_ledger_receipts",
    ("GET", "/governance/ledger/receipts/abc"): "governance_ledger_receipt",
    ("DELETE", "/governance/ledger/retained"): "governance_ledger_retained_delete",
    ("DELETE", "/governance/ledger/retained/abc"): "governance_ledger_retained_record_delete",
    ("PUT", "/governance/ledger/retention"): "governance_ledger_retention",
    ("GET", "/governance/notices"): "governance_notices",
    ("GET", "/governance/receipts"): "governance_receipts",
    ("GET", "/governance/receipts/abc"): "governance_receipt",
    ("POST", "/governance/receipts"): None,
    ("GET", "/governance/retained"): "governance_retained",
    ("DELETE", "/governance/retained"): "governance_retained_delete",
    ("GET", "/governance/retained/abc"): "governance_retained_record",
    ("DELETE", "/governance/retained/abc"): "governance_retained_record_delete",
    ("GET", "/healthz"): "healthz",
    ("GET", "/"): None,
    ("GET", "/docs"): None,
    ("POST", "/healthz"): None,
}


@pytest.fixture
def functions(tmp_path, monkeypatch) -> Iterator[list[Function]]:
    """The product's functions, in the order in which the host tries their routes."""
    settings: dict[str, str] = {}
    use_embedded_settings(settings, tmp_path)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, "function_app", raising=False)
    yield index(load_app(ROOT, os.environ), os.environ, route_prefix="")
    del sys.modules["function_app"]


def match(functions: list[Function], method: str, path: str) -> str | None:
    """Return the name of the function that the host would choose."""
    routed = (each for each in functions if isinstance(each, HttpFunction))
    return next((each.name for each in routed if each.route.match(method, path) is not None), None)


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=[" ".join(each) for each in OPERATIONS])
def test_a_request_reaches_its_function(functions, method, path):
    assert match(functions, method, path) == OPERATIONS[method, path]


def test_no_route_shadows_another(functions):
    for function in functions:
        if isinstance(function, HttpFunction):
            path = "/" + re.sub(r"\{\*?\w+\}", "sample", function.route.template)
            for method in function.route.methods or ("GET", "POST", "PUT", "PATCH", "DELETE"):
                assert match(functions, method, path) == function.name


def test_every_function_is_among_the_operations(functions):
    routed = {each.name for each in functions if isinstance(each, HttpFunction)}

    assert routed == {name for name in OPERATIONS.values() if name}


def test_the_timers_are_those_of_abuse_monitoring_fine_tuning_and_the_purge(functions):
    timers = [each for each in functions if isinstance(each, TimerFunction)]

    assert [(timer.name, timer.schedule, timer.run_on_startup) for timer in timers] == [
        ("abuse", "0 */5 * * * *", False),
        ("fine_tune", "*/15 * * * * *", False),
        ("purge", "0 5 * * * *", False),
    ]
