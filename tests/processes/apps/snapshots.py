"""A camera that writes down what it sees: ``celery -A apps.controlled events --camera=apps.snapshots.Camera``."""

from celery.events.snapshot import Polaroid
from celery.events.state import State

from apps.notes import note


class Camera(Polaroid):  # type: ignore[misc]
    """Takes a picture of the cluster."""

    clear_after = False

    def on_shutter(self, state: State) -> None:
        states = {task.uuid: task.state for task in state.tasks.values()}
        note(event="snapshot", workers=sorted(state.workers), tasks=states)
