from django.db import models


class Order(models.Model):
    """What a customer bought."""

    item = models.CharField(max_length=100)
    placed_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"order {self.pk}: {self.item}"


class Execution(models.Model):
    """One run of the task, for one order, in one group.

    Nothing here is unique, so that a task which ran twice leaves two rows.
    """

    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="executions")
    group = models.CharField(max_length=50)
    worker_pid = models.PositiveIntegerField()
    ran_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"order {self.order_id} in {self.group} by process {self.worker_pid}"
