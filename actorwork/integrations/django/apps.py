"""The application, for `INSTALLED_APPS`: its label is `actorwork`, and it has no models."""

from __future__ import annotations

from actorwork.integrations.django.interface import AppConfig


class ActorworkConfig(AppConfig):
    name = "actorwork.integrations.django"
    label = "actorwork"
    verbose_name = "actorwork"
