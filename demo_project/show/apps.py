from django.apps import AppConfig


class ShowConfig(AppConfig):
    name = "show"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from show import progress  # noqa: F401 - connects its receivers
