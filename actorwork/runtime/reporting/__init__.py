"""What a node reports of itself at the broker, and how it answers commands.

    reporter     the task that writes the report, and looks for commands with it
    answering    what each command does
    stand_in     a thread that reports and answers in place of a loop that is blocked
    tree         the tree as the report shows it
    usage        what the process costs: memory, time, threads

Nothing here is imported before a node has run for a second: a start and a short program need none of it.
"""
