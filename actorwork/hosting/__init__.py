"""Actors inside a program that does not run Trio: an asyncio application, Django, Flask, a script, a notebook.

system_thread    `SystemThread`, for programs with and without an event loop, and `HostedSystem`, its face on asyncio
thread           a system in a thread of its own: how it starts, is called, and ends
threads_here     refuses programs in which no thread would run
"""
