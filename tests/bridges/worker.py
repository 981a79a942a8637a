"""What `celery -A tests.bridges.worker worker` runs."""

import os

from tests.bridges.shop import make_app

app = make_app(os.environ["SHOP_REDIS"])
