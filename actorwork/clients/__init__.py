"""Clients: how a program that runs no actors sends them messages, and learns what came of them."""

from actorwork.clients.client import Client as Client, open_client as open_client
from actorwork.clients.refs import Receipt as Receipt, StreamRef as StreamRef
from actorwork.clients.spool import Spool as Spool
