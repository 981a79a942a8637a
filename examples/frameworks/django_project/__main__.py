"""What `manage.py` is in a project."""

import os

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "examples.frameworks.django_project.settings")
execute_from_command_line()
