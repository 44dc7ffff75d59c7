"""The triggers: one function per operation and timer, each handing over in a line.

Azure tries routes in the order of function names and takes the first that fits, so ``unknown_operation`` must sort after
every other function under ``openai/``; a test keeps it so. A missing plugin or setting stops the import, and with it the app.
"""

from pathlib import Path

import azure.functions as func
from azurefunctions.extensions.http.fastapi import Request, Response

from sluicegate.api import (
    chat,
    completions,
    data_plane,
    files,
    fine_tuning,
    governance,
    governance_appeals,
    governance_applications,
    governance_cases,
    governance_debug,
    governance_ledger,
    governance_notices,
    imports,
    uploads,
)
from sluicegate.api.arm import routing
from sluicegate.app import Sluicegate
from sluicegate.requests import ChatRequest, CompletionRequest

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
gate = Sluicegate(Path(__file__).parent)


@app.function_name("abuse")
@app.timer_trigger("timer", schedule="%ABUSE_SCHEDULE%")
async def abuse(timer: func.TimerRequest) -> None:
    await gate.monitor()


@app.function_name("chat_completions")
@app.route("openai/deployments/{deployment}/chat/completions", methods=["POST"])
async def chat_completions(req: Request) -> Response:
    return await data_plane.generate(gate, req, ChatRequest, chat)


@app.function_name("chat_completions_v1")
@app.route("openai/v1/chat/completions", methods=["POST"])
async def chat_completions_v1(req: Request) -> Response:
    return await data_plane.generate(gate, req, ChatRequest, chat)


@app.function_name("completions")
@app.route("openai/deployments/{deployment}/completions", methods=["POST"])
async def completions_(req: Request) -> Response:
    return await data_plane.generate(gate, req, CompletionRequest, completions)


@app.function_name("completions_v1")
@app.route("openai/v1/completions", methods=["POST"])
async def completions_v1(req: Request) -> Response:
    return await data_plane.generate(gate, req, CompletionRequest, completions)


@app.function_name("control_plane")
@app.route("subscriptions/{*path}")
async def control_plane(req: Request) -> Response:
    return await routing.serve(gate, req)


@app.function_name("embeddings")
@app.route("openai/deployments/{deployment}/embeddings", methods=["POST"])
async def embeddings(req: Request) -> Response:
    return await data_plane.embed(gate, req)


@app.function_name("embeddings_v1")
@app.route("openai/v1/embeddings", methods=["POST"])
async def embeddings_v1(req: Request) -> Response:
    return await data_plane.embed(gate, req)


@app.function_name("file_content")
@app.route("openai/files/{file}/content", methods=["GET"])
async def file_content(req: Request) -> Response:
    return await files.content(gate, req)


@app.function_name("file_content_v1")
@app.route("openai/v1/files/{file}/content", methods=["GET"])
async def file_content_v1(req: Request) -> Response:
    return await files.content(gate, req)


@app.function_name("file_delete")
@app.route("openai/files/{file}", methods=["DELETE"])
async def file_delete(req: Request) -> Response:
    return await files.delete(gate, req)


@app.function_name("file_delete_v1")
@app.route("openai/v1/files/{file}", methods=["DELETE"])
async def file_delete_v1(req: Request) -> Response:
    return await files.delete(gate, req)


@app.function_name("file_get")
@app.route("openai/files/{file}", methods=["GET"])
async def file_get(req: Request) -> Response:
    return await files.get(gate, req)


@app.function_name("file_get_v1")
@app.route("openai/v1/files/{file}", methods=["GET"])
async def file_get_v1(req: Request) -> Response:
    return await files.get(gate, req)


@app.function_name("file_import")
@app.route("openai/files/import", methods=["POST"])
async def file_import(req: Request) -> Response:
    return await imports.create(gate, req)


@app.function_name("file_report")
@app.route("openai/files/{file}/report", methods=["GET"])
async def file_report(req: Request) -> Response:
    return await files.report(gate, req)


@app.function_name("file_report_v1")
@app.route("openai/v1/files/{file}/report", methods=["GET"])
async def file_report_v1(req: Request) -> Response:
    return await files.report(gate, req)


@app.function_name("files_create")
@app.route("openai/files", methods=["POST"])
async def files_create(req: Request) -> Response:
    return await files.create(gate, req)


@app.function_name("files_create_v1")
@app.route("openai/v1/files", methods=["POST"])
async def files_create_v1(req: Request) -> Response:
    return await files.create(gate, req)


@app.function_name("files_list")
@app.route("openai/files", methods=["GET"])
async def files_list(req: Request) -> Response:
    return await files.list_files(gate, req)


@app.function_name("files_list_v1")
@app.route("openai/v1/files", methods=["GET"])
async def files_list_v1(req: Request) -> Response:
    return await files.list_files(gate, req)


@app.function_name("fine_tune")
@app.timer_trigger("timer", schedule="%FINE_TUNE_SCHEDULE%")
async def fine_tune(timer: func.TimerRequest) -> None:
    await gate.fine_tune()


@app.function_name("fine_tuning_job_cancel")
@app.route("openai/fine_tuning/jobs/{job}/cancel", methods=["POST"])
async def fine_tuning_job_cancel(req: Request) -> Response:
    return await fine_tuning.cancel(gate, req)


@app.function_name("fine_tuning_job_cancel_v1")
@app.route("openai/v1/fine_tuning/jobs/{job}/cancel", methods=["POST"])
async def fine_tuning_job_cancel_v1(req: Request) -> Response:
    return await fine_tuning.cancel(gate, req)


@app.function_name("fine_tuning_job_checkpoints")
@app.route("openai/fine_tuning/jobs/{job}/checkpoints", methods=["GET"])
async def fine_tuning_job_checkpoints(req: Request) -> Response:
    return await fine_tuning.list_checkpoints(gate, req)


@app.function_name("fine_tuning_job_checkpoints_v1")
@app.route("openai/v1/fine_tuning/jobs/{job}/checkpoints", methods=["GET"])
async def fine_tuning_job_checkpoints_v1(req: Request) -> Response:
    return await fine_tuning.list_checkpoints(gate, req)


@app.function_name("fine_tuning_job_delete")
@app.route("openai/fine_tuning/jobs/{job}", methods=["DELETE"])
async def fine_tuning_job_delete(req: Request) -> Response:
    return await fine_tuning.delete(gate, req)


@app.function_name("fine_tuning_job_delete_v1")
@app.route("openai/v1/fine_tuning/jobs/{job}", methods=["DELETE"])
async def fine_tuning_job_delete_v1(req: Request) -> Response:
    return await fine_tuning.delete(gate, req)


@app.function_name("fine_tuning_job_events")
@app.route("openai/fine_tuning/jobs/{job}/events", methods=["GET"])
async def fine_tuning_job_events(req: Request) -> Response:
    return await fine_tuning.list_events(gate, req)


@app.function_name("fine_tuning_job_events_v1")
@app.route("openai/v1/fine_tuning/jobs/{job}/events", methods=["GET"])
async def fine_tuning_job_events_v1(req: Request) -> Response:
    return await fine_tuning.list_events(gate, req)


@app.function_name("fine_tuning_job_get")
@app.route("openai/fine_tuning/jobs/{job}", methods=["GET"])
async def fine_tuning_job_get(req: Request) -> Response:
    return await fine_tuning.get(gate, req)


@app.function_name("fine_tuning_job_get_v1")
@app.route("openai/v1/fine_tuning/jobs/{job}", methods=["GET"])
async def fine_tuning_job_get_v1(req: Request) -> Response:
    return await fine_tuning.get(gate, req)


@app.function_name("fine_tuning_job_pause")
@app.route("openai/fine_tuning/jobs/{job}/pause", methods=["POST"])
async def fine_tuning_job_pause(req: Request) -> Response:
    return await fine_tuning.pause(gate, req)


@app.function_name("fine_tuning_job_pause_v1")
@app.route("openai/v1/fine_tuning/jobs/{job}/pause", methods=["POST"])
async def fine_tuning_job_pause_v1(req: Request) -> Response:
    return await fine_tuning.pause(gate, req)


@app.function_name("fine_tuning_job_resume")
@app.route("openai/fine_tuning/jobs/{job}/resume", methods=["POST"])
async def fine_tuning_job_resume(req: Request) -> Response:
    return await fine_tuning.resume(gate, req)


@app.function_name("fine_tuning_job_resume_v1")
@app.route("openai/v1/fine_tuning/jobs/{job}/resume", methods=["POST"])
async def fine_tuning_job_resume_v1(req: Request) -> Response:
    return await fine_tuning.resume(gate, req)


@app.function_name("fine_tuning_jobs_create")
@app.route("openai/fine_tuning/jobs", methods=["POST"])
async def fine_tuning_jobs_create(req: Request) -> Response:
    return await fine_tuning.create(gate, req)


@app.function_name("fine_tuning_jobs_create_v1")
@app.route("openai/v1/fine_tuning/jobs", methods=["POST"])
async def fine_tuning_jobs_create_v1(req: Request) -> Response:
    return await fine_tuning.create(gate, req)


@app.function_name("fine_tuning_jobs_list")
@app.route("openai/fine_tuning/jobs", methods=["GET"])
async def fine_tuning_jobs_list(req: Request) -> Response:
    return await fine_tuning.list_jobs(gate, req)


@app.function_name("fine_tuning_jobs_list_v1")
@app.route("openai/v1/fine_tuning/jobs", methods=["GET"])
async def fine_tuning_jobs_list_v1(req: Request) -> Response:
    return await fine_tuning.list_jobs(gate, req)


@app.function_name("governance_appeal")
@app.route("governance/appeals/{appeal}", methods=["GET"])
async def governance_appeal(req: Request) -> Response:
    return await governance_appeals.get(gate, req)


@app.function_name("governance_appeal_ruling")
@app.route("governance/appeals/{appeal}/ruling", methods=["POST"])
async def governance_appeal_ruling(req: Request) -> Response:
    return await governance_appeals.rule(gate, req)


@app.function_name("governance_appeals_create")
@app.route("governance/appeals", methods=["POST"])
async def governance_appeals_create(req: Request) -> Response:
    return await governance_appeals.file(gate, req)


@app.function_name("governance_appeals_list")
@app.route("governance/appeals", methods=["GET"])
async def governance_appeals_list(req: Request) -> Response:
    return await governance_appeals.list_waiting(gate, req)


@app.function_name("governance_application")
@app.route("governance/applications/{application}", methods=["GET"])
async def governance_application(req: Request) -> Response:
    return await governance_applications.get(gate, req)


@app.function_name("governance_application_decision")
@app.route("governance/applications/{application}/decision", methods=["POST"])
async def governance_application_decision(req: Request) -> Response:
    return await governance_applications.decide(gate, req)


@app.function_name("governance_application_withdraw")
@app.route("governance/applications/{application}", methods=["DELETE"])
async def governance_application_withdraw(req: Request) -> Response:
    return await governance_applications.withdraw(gate, req)


@app.function_name("governance_applications_create")
@app.route("governance/applications", methods=["POST"])
async def governance_applications_create(req: Request) -> Response:
    return await governance_applications.file(gate, req)


@app.function_name("governance_applications_list")
@app.route("governance/applications", methods=["GET"])
async def governance_applications_list(req: Request) -> Response:
    return await governance_applications.list_applications(gate, req)


@app.function_name("governance_audit")
@app.route("governance/audit", methods=["GET"])
async def governance_audit(req: Request) -> Response:
    return await governance.list_audit(gate, req)


@app.function_name("governance_case")
@app.route("governance/cases/{case}", methods=["GET"])
async def governance_case(req: Request) -> Response:
    return await governance_cases.get(gate, req)


@app.function_name("governance_case_access")
@app.route("governance/cases/{case}/access", methods=["POST"])
async def governance_case_access(req: Request) -> Response:
    return await governance_cases.ask(gate, req)


@app.function_name("governance_case_access_approve")
@app.route("governance/cases/{case}/access/{grant}/approve", methods=["POST"])
async def governance_case_access_approve(req: Request) -> Response:
    return await governance_cases.approve(gate, req)


@app.function_name("governance_case_access_revoke")
@app.route("governance/cases/{case}/access/{grant}", methods=["DELETE"])
async def governance_case_access_revoke(req: Request) -> Response:
    return await governance_cases.revoke(gate, req)


@app.function_name("governance_case_content")
@app.route("governance/cases/{case}/content", methods=["GET"])
async def governance_case_content(req: Request) -> Response:
    return await governance_cases.content(gate, req)


@app.function_name("governance_case_decision")
@app.route("governance/cases/{case}/decision", methods=["POST"])
async def governance_case_decision(req: Request) -> Response:
    return await governance_cases.decide(gate, req)


@app.function_name("governance_cases_list")
@app.route("governance/cases", methods=["GET"])
async def governance_cases_list(req: Request) -> Response:
    return await governance_cases.list_cases(gate, req)


@app.function_name("governance_debug_accept")
@app.route("governance/debug-access/{grant}/accept", methods=["POST"])
async def governance_debug_accept(req: Request) -> Response:
    return await governance_debug.accept(gate, req)


@app.function_name("governance_debug_approve")
@app.route("governance/debug-access/{grant}/approve", methods=["POST"])
async def governance_debug_approve(req: Request) -> Response:
    return await governance_debug.approve(gate, req)


@app.function_name("governance_debug_ask")
@app.route("governance/debug-access", methods=["POST"])
async def governance_debug_ask(req: Request) -> Response:
    return await governance_debug.ask(gate, req)


@app.function_name("governance_debug_content")
@app.route("governance/debug-access/{grant}/content", methods=["GET"])
async def governance_debug_content(req: Request) -> Response:
    return await governance_debug.content(gate, req)


@app.function_name("governance_debug_invite")
@app.route("governance/debug-access/invitations", methods=["POST"])
async def governance_debug_invite(req: Request) -> Response:
    return await governance_debug.invite(gate, req)


@app.function_name("governance_debug_list")
@app.route("governance/debug-access", methods=["GET"])
async def governance_debug_list(req: Request) -> Response:
    return await governance_debug.list_grants(gate, req)


@app.function_name("governance_debug_revoke")
@app.route("governance/debug-access/{grant}", methods=["DELETE"])
async def governance_debug_revoke(req: Request) -> Response:
    return await governance_debug.revoke(gate, req)


@app.function_name("governance_checkpoint")
@app.route("governance/checkpoint", methods=["GET"])
async def governance_checkpoint(req: Request) -> Response:
    return await governance.get_checkpoint(gate, req)


@app.function_name("governance_export")
@app.route("governance/export", methods=["GET"])
async def governance_export(req: Request) -> Response:
    return await governance.export(gate, req)


@app.function_name("governance_ledger_export")
@app.route("governance/ledger/export", methods=["GET"])
async def governance_ledger_export(req: Request) -> Response:
    return await governance_ledger.export(gate, req)


@app.function_name("governance_ledger_read")
@app.route("governance/ledger", methods=["GET"])
async def governance_ledger_read(req: Request) -> Response:
    return await governance_ledger.read(gate, req)


@app.function_name("governance_ledger_receipt")
@app.route("governance/ledger/receipts/{receipt}", methods=["GET"])
async def governance_ledger_receipt(req: Request) -> Response:
    return await governance_ledger.get_receipt(gate, req)


@app.function_name("governance_ledger_receipts")
@app.route("governance/ledger/receipts", methods=["GET"])
async def governance_ledger_receipts(req: Request) -> Response:
    return await governance_ledger.list_receipts(gate, req)


@app.function_name("governance_ledger_retained_delete")
@app.route("governance/ledger/retained", methods=["DELETE"])
async def governance_ledger_retained_delete(req: Request) -> Response:
    return await governance_ledger.delete(gate, req)


@app.function_name("governance_ledger_retained_record_delete")
@app.route("governance/ledger/retained/{record}", methods=["DELETE"])
async def governance_ledger_retained_record_delete(req: Request) -> Response:
    return await governance_ledger.delete(gate, req)


@app.function_name("governance_ledger_retention")
@app.route("governance/ledger/retention", methods=["PUT"])
async def governance_ledger_retention(req: Request) -> Response:
    return await governance_ledger.shorten(gate, req)


@app.function_name("governance_notices")
@app.route("governance/notices", methods=["GET"])
async def governance_notices_(req: Request) -> Response:
    return await governance_notices.list_notices(gate, req)


@app.function_name("governance_receipt")
@app.route("governance/receipts/{receipt}", methods=["GET"])
async def governance_receipt(req: Request) -> Response:
    return await governance.get_receipt(gate, req)


@app.function_name("governance_receipts")
@app.route("governance/receipts", methods=["GET"])
async def governance_receipts(req: Request) -> Response:
    return await governance.list_receipts(gate, req)


@app.function_name("governance_retained")
@app.route("governance/retained", methods=["GET"])
async def governance_retained(req: Request) -> Response:
    return await governance.list_retained(gate, req)


@app.function_name("governance_retained_delete")
@app.route("governance/retained", methods=["DELETE"])
async def governance_retained_delete(req: Request) -> Response:
    return await governance.delete_retained(gate, req)


@app.function_name("governance_retained_record")
@app.route("governance/retained/{record}", methods=["GET"])
async def governance_retained_record(req: Request) -> Response:
    return await governance.get_retained(gate, req)


@app.function_name("governance_retained_record_delete")
@app.route("governance/retained/{record}", methods=["DELETE"])
async def governance_retained_record_delete(req: Request) -> Response:
    return await governance.delete_retained(gate, req)


@app.function_name("healthz")
@app.route("healthz", methods=["GET"])
async def healthz(req: Request) -> Response:
    return await data_plane.healthz(gate)


@app.function_name("model_delete")
@app.route("openai/models/{model}", methods=["DELETE"])
async def model_delete(req: Request) -> Response:
    return await data_plane.delete_model(gate, req)


@app.function_name("model_delete_v1")
@app.route("openai/v1/models/{model}", methods=["DELETE"])
async def model_delete_v1(req: Request) -> Response:
    return await data_plane.delete_model(gate, req)


@app.function_name("model_get")
@app.route("openai/models/{model}", methods=["GET"])
async def model_get(req: Request) -> Response:
    return await data_plane.get_model(gate, req)


@app.function_name("model_get_v1")
@app.route("openai/v1/models/{model}", methods=["GET"])
async def model_get_v1(req: Request) -> Response:
    return await data_plane.get_model(gate, req)


@app.function_name("models_list")
@app.route("openai/models", methods=["GET"])
async def models_list(req: Request) -> Response:
    return await data_plane.list_models(gate, req)


@app.function_name("models_list_v1")
@app.route("openai/v1/models", methods=["GET"])
async def models_list_v1(req: Request) -> Response:
    return await data_plane.list_models(gate, req)


@app.function_name("part_upload_cancel")
@app.route("openai/uploads/{upload}/cancel", methods=["POST"])
async def part_upload_cancel(req: Request) -> Response:
    return await uploads.cancel(gate, req)


@app.function_name("part_upload_cancel_v1")
@app.route("openai/v1/uploads/{upload}/cancel", methods=["POST"])
async def part_upload_cancel_v1(req: Request) -> Response:
    return await uploads.cancel(gate, req)


@app.function_name("part_upload_complete")
@app.route("openai/uploads/{upload}/complete", methods=["POST"])
async def part_upload_complete(req: Request) -> Response:
    return await uploads.complete(gate, req)


@app.function_name("part_upload_complete_v1")
@app.route("openai/v1/uploads/{upload}/complete", methods=["POST"])
async def part_upload_complete_v1(req: Request) -> Response:
    return await uploads.complete(gate, req)


@app.function_name("part_upload_part")
@app.route("openai/uploads/{upload}/parts", methods=["POST"])
async def part_upload_part(req: Request) -> Response:
    return await uploads.add(gate, req)


@app.function_name("part_upload_part_v1")
@app.route("openai/v1/uploads/{upload}/parts", methods=["POST"])
async def part_upload_part_v1(req: Request) -> Response:
    return await uploads.add(gate, req)


@app.function_name("part_upload_create")
@app.route("openai/uploads", methods=["POST"])
async def part_upload_create(req: Request) -> Response:
    return await uploads.create(gate, req)


@app.function_name("part_upload_create_v1")
@app.route("openai/v1/uploads", methods=["POST"])
async def part_upload_create_v1(req: Request) -> Response:
    return await uploads.create(gate, req)


@app.function_name("purge")
@app.timer_trigger("timer", schedule="%PURGE_SCHEDULE%")
async def purge(timer: func.TimerRequest) -> None:
    await gate.purge()


@app.function_name("unknown_operation")
@app.route("openai/{*path}")
async def unknown_operation(req: Request) -> Response:
    return await data_plane.unknown(gate, req)
