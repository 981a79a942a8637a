"""A shop's catalogue: FastAPI answers at once, actors notify in the background.

configuration   what the environment and `.env` say
models          what the API takes and gives, and the message to the notifier
store           products and their notifications, in one SQLite file
outbox          hands notifications to the broker: an asyncio task beside the API
api             the routes
messenger       the simulated service that takes its time, and fails
notifier        the actor that talks to it; `python -m examples.products.notifier` is a worker
__main__        API and worker in one process, for a first look
"""
