"""Frameworks of web applications, each by its own module, with the extra of its name.

    starlette    `lifespan`, the dependency `client`, and `event_response`; on asyncio and on Trio
    fastapi      the same, and `ClientDep` for the signatures of routes
    django/      a backend for Django's tasks, and `manage.py actorwork`
    flask        an extension, whose `client` is that of `actorwork.sync`
    litestar     a plugin: the client for handlers, `event_response`, and the dashboard
    quart        an extension of Quart-Trio, which hosts actors on the loop of the application
    opened       the client that an application keeps open: what happens while the broker is away
    following    the events that a response follows
    lazy         the sync client that a process opens when it is needed
    extras       the error for a framework that is not installed

A module of this room imports its framework, and nothing else imports the module: a program without the framework never
comes here.
"""
