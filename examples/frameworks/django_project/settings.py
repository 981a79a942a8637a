"""The settings. With Django 6 there is no `django_tasks` among the applications: it has the tasks itself."""

import os
import tempfile

import django

SECRET_KEY = "of an example"  # noqa: S105 - nothing is signed
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1", "testserver"]
ROOT_URLCONF = "examples.frameworks.django_project.urls"
INSTALLED_APPS = ["actorwork.integrations.django"]
if django.VERSION < (6,):
    INSTALLED_APPS.append("django_tasks")
TASKS = {
    "default": {
        "BACKEND": "actorwork.integrations.django.ActorworkBackend",
        "QUEUES": ["default"],
        "OPTIONS": {"broker": os.environ.get("ACTORWORK_BROKER"), "settings": {"concurrency": 4}},
    }
}
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{tempfile.gettempdir()}/texts.sqlite3"}}
USE_TZ = True
