"""The routes and their views."""

from functools import partial
from typing import Any

from django.db import transaction
from django.http import Http404, HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

try:
    from django.tasks.exceptions import TaskResultDoesNotExist
except ModuleNotFoundError:  # Before Django 6.
    from django_tasks.exceptions import TaskResultDoesNotExist

from .tasks import count


@csrf_exempt
def create(request: HttpRequest) -> JsonResponse:
    result = count.enqueue(request.POST["text"])
    return JsonResponse({"id": result.id}, status=202)


@csrf_exempt
def create_with_order(request: HttpRequest) -> JsonResponse:
    """As above, for a view that changes the database: the task is sent after the commit, or never."""
    with transaction.atomic():
        transaction.on_commit(partial(count.enqueue, request.POST["text"]))
    return JsonResponse({}, status=202)


def show(_: HttpRequest, id: str) -> JsonResponse:
    try:
        result: Any = count.get_result(id)
    except TaskResultDoesNotExist:
        raise Http404 from None
    words = result.return_value if result.status == "SUCCESSFUL" else None
    return JsonResponse({"id": id, "status": result.status, "words": words})


urlpatterns = [
    path("texts", create),
    path("orders", create_with_order),
    path("texts/<id>", show),
]
