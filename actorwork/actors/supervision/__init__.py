"""Supervision: one supervisor, from its loop down to a child's record.

supervisor.py       the loop: starts, restarts and stops children
administration.py   what a program can ask of a running supervisor: `SupervisorRef`
children.py         what it shows of its children
requests.py         the queue of what the loop has to do
child_runner.py     starts and ends a child's task
child_table.py      the records of the children, and their alarms
failures.py         the errors that a supervisor raises
tasks.py            a child that is an async function
"""
