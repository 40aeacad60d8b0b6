from django.db import models


class Step(models.Model):
    """The progress of one group with one order. There is no row before the group has started."""

    class State(models.TextChoices):
        RUNNING = "running"
        RETRYING = "retrying"
        DONE = "done"
        FAILED = "failed"

    order = models.ForeignKey("orders.Order", on_delete=models.CASCADE, related_name="steps")
    group = models.CharField(max_length=50)
    state = models.CharField(max_length=10, choices=State)
    tries = models.PositiveIntegerField(default=1, help_text="how often it was begun")
    finished = models.PositiveIntegerField(default=0, help_text="how often it was done: once, if all went well")
    worker = models.CharField(max_length=200)
    error = models.CharField(max_length=200, blank=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["order", "group"], name="one_step_per_order_and_group"),)

    def __str__(self) -> str:
        return f"{self.group} of order {self.order_id}: {self.state}"


class Group(models.Model):
    """A group that has had a worker. What was published before its first one was ready never went to it."""

    name = models.CharField(max_length=50, primary_key=True)
    joined_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name
