"""Ways to and from other libraries, for the time in which a program moves.

celery    takes tasks from queues of Celery's on Redis, writes their results, and sends tasks to Celery's workers
"""
