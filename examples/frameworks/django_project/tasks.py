"""The tasks. They are Django's: nothing here knows of actorwork."""

try:
    from django.tasks import task
except ModuleNotFoundError:  # Before Django 6.
    from django_tasks import task


@task
def count(text: str) -> int:
    return len(text.split())
