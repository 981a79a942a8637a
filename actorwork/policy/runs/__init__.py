"""Runs of workflows: what is stored of them, and the rules by which their steps end, join and are cancelled.

values      plans, templates, ends, states: what a client sends and a broker stores
rules       what follows from the end of a step; used by the embedded broker as it is, and mirrored in Lua at Redis
drawing     the graph of a run as a picture
folding     steps that are drawn as one
layout      where the nodes of a graph are drawn
"""
