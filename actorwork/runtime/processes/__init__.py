"""Parts of a tree in OS processes of their own.

process_child     a `Process` under its supervisor: start, replacement, stop
scaling           as many replicas of a process as its `Scale` wants
seats             how many of them the programs at one broker have together
worker_process    one OS process as its parent sees it: commands, frames, hang detection, end
launching         how a process is started, and how its end is seen
child_node        what runs in it: a system of its own
parent_channel    the child's end of the control socket, and its thread
event_frames      events on their way to the parent
config            what both sides agree on: configuration, signals
exit_codes        what they end with, and what a program that runs a tree ends with
control           the frames that they exchange
recycling         when a process is replaced by a fresh one
"""
