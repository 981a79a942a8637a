"""With Django: its own tasks, by the backend of actorwork.

    python -m examples.frameworks.django_project actorwork
    python -m examples.frameworks.django_project runserver
    curl -d 'text=one two' http://127.0.0.1:8000/texts
    curl http://127.0.0.1:8000/texts/ID

In a project of your own, `manage.py` is what `__main__` is here.
"""
