"""How far a task is, for the page that asks."""
from pydantic import BaseModel

from modules import shared

current = None
finished = []


class Request(BaseModel):
    id_task: str


def setup_progress_api(app):
    app.add_api_route("/internal/progress", progressapi, methods=["POST"])


def progressapi(request: Request):
    state, done = shared.state, 0
    if state.job_count > 0:
        done = state.job_no / state.job_count
        if state.sampling_steps > 0:
            done += state.sampling_step / state.sampling_steps / state.job_count
    return {"active": request.id_task == current, "completed": request.id_task in finished, "progress": min(done, 1)}
